"""Save one domain: memory past the page cache, image published only when whole, guest lost never."""

from __future__ import annotations

from pathlib import Path

from engine.native import NativeSave
from engine.newxml import XmlWish
from engine.operation import Operation
from engine.outcome import Outcome
from engine.preflight import check_flags, check_streams, preflight_save
from engine.steps import Step
from engine.streamsave import ImageKind, SaveOptions, StreamSave


def save(
    operation: Operation,
    domain: str,
    to: Path | None,
    *,
    wish: XmlWish | None = None,
    options: SaveOptions | None = None,
) -> Outcome:
    """Save the domain into the file `to`, or into a new restore point of the store; the guest ends.

    On return the image is durable under its final name.

    Raises:
        UndecidedError: libvirt went away while the guest did; the image is kept in staging.
        EngineError: the guest is as it was, and nothing is under the final name.
    """
    options = options or SaveOptions()
    check_flags(options.flags)
    plan = preflight_save(operation, domain, to, wish, options.policy)
    if options.data_path != "native":
        check_streams(operation.hypervisor)
    operation.reach(Step.PREFLIGHT)
    if options.data_path == "native":
        return NativeSave(
            operation,
            plan,
            flags=options.flags,
            policy=options.policy,
            image_format=options.image_format,
            channels=options.channels,
        ).run()
    kind = ImageKind(
        op="save",
        call=lambda path: operation.hypervisor.save(plan.domain.uuid, path, plan.dxml, 0),
        guest_ends=True,
    )
    return StreamSave(operation, plan, kind, options).run()
