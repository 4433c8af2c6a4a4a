"""fleetsave doctor: is this host fit, and what is to be done."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.command import Command
from cli.findings import exit_code_of_findings, print_findings
from cli.output import print_json
from engine.findings import Finding
from tasks.errors import ConfigError

if TYPE_CHECKING:
    from tasks.config import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What is looked at."""

    uri: str
    runtime_dir: Path
    store: Path | None


@click.command(
    cls=Command,
    examples=(
        "fleetsave doctor                                  this host, as its settings say",
        "fleetsave doctor --uri qemu:///session --store ~/images",
        "fleetsave doctor --no-fix --json                  look only",
    ),
)
@click.option("--uri", metavar="URI", help="libvirt connection URI; default: the host's settings.")
@click.option(
    "--store",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory of restore points; default: the host's settings.",
)
@click.option(
    "--fix/--no-fix",
    "is_fixing",
    default=True,
    help="Put right what operations left that died (default), or only look.",
)
def doctor(*, uri: str | None, store: Path | None, is_fixing: bool, as_json: bool) -> int:
    """Look at libvirt, store, page cache, runtime directory, leftovers, broker and trusted keys of this host.

    What an operation left whose process was killed is put right first: an image that is all there is
    of a guest is published, everything else is swept, guests that stand still are let go on. The exit
    code is 0 where the host is healthy, else that of the first thing that is not.
    """
    from cli.guard import put_right
    from engine.host import survey_host

    place, settings, findings = _find_place()
    place = replace(place, uri=uri or place.uri, store=store.absolute() if store else place.store)
    directories = [place.store] if place.store else []
    recovered = put_right(place.uri, place.runtime_dir, directories) if is_fixing else []
    findings += survey_host(place.uri, runtime_dir=place.runtime_dir, store=place.store)
    if settings is not None:
        from tasks.survey import survey_fleet

        findings += survey_fleet(settings)
    code = exit_code_of_findings(findings)
    if as_json:
        print_json(
            {
                "healthy": code == 0,
                **asdict(place),
                "findings": [finding.to_dict() for finding in findings],
                "recovered": [asdict(one) for one in recovered],
            }
        )
    else:
        print_findings(findings)
    return code


def _find_place() -> tuple[_Place, Settings | None, list[Finding]]:
    """Return what the settings say of this host, else what local commands would take."""
    from cli.local import default_uri, runtime_dir
    from tasks.config import load_settings

    place = _Place(uri=default_uri(), runtime_dir=runtime_dir(), store=None)
    try:
        settings = load_settings()
    except ConfigError as error:
        return place, None, [Finding(name="settings", detail=str(error), error=error)]
    host = settings.host
    told = {
        name: getattr(host, name) for name in ("uri", "runtime_dir", "store") if name in host.model_fields_set
    }
    return replace(place, **told), settings, []
