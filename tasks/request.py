"""Turn a job into what the engine is asked: the job says what, the host's own settings say where."""

from __future__ import annotations

from engine.request import EngineRequest
from tasks.config import HostSettings
from tasks.envelope import Envelope
from tasks.params import request_fields


def build_request(envelope: Envelope, settings: HostSettings) -> EngineRequest:
    """Return the engine's request; where to connect and where it may write never come from the message.

    Raises:
        InvalidArgumentError: the engine knows no such operation.
    """
    return EngineRequest(
        op=envelope.op,
        job_id=envelope.job_id,
        host=settings.name,
        uri=settings.uri,
        domain=envelope.domain,
        runtime_dir=str(settings.runtime_dir),
        store=str(settings.store) if settings.store else None,
        allowed_roots=[str(root) for root in settings.roots],
        managed_save_dir=str(managed) if (managed := settings.find_managed_save_dir()) else None,
        **request_fields(envelope.params),
    )
