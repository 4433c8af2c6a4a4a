"""Define the one Celery task: a doorbell that says "look"."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from tasks.app import RUN_TASK

#: Takes envelope and signature as they came; never raises for what is in them.
Answer = Callable[[object, object], None]


def register_jobs(app: Celery, answer: Answer) -> None:
    """Let the application answer doorbells; keys that a later release adds are passed over."""

    @app.task(name=RUN_TASK, ignore_result=True, typing=False)
    def run(envelope: object = None, signature: object = None, **_later: object) -> None:
        """Hand the doorbell over."""
        answer(envelope, signature)
