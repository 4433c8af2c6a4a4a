"""Define the Celery tasks of a host: a doorbell that says "look", and a question."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from tasks.app import REPORT_TASK, RUN_TASK

#: Takes envelope and signature as they came; never raises for what is in them.
Answer = Callable[[object, object], None]


def register_jobs(app: Celery, answer: Answer, report: Answer) -> None:
    """Let the application answer doorbells and questions; keys that a later release adds are passed over."""

    @app.task(name=RUN_TASK, ignore_result=True, typing=False)
    def run(envelope: object = None, signature: object = None, **_later: object) -> None:
        """Hand the doorbell over."""
        answer(envelope, signature)

    @app.task(name=REPORT_TASK, ignore_result=True, typing=False)
    def tell(question: object = None, signature: object = None, **_later: object) -> None:
        """Hand the question over."""
        report(question, signature)
