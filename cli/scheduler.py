"""fleetsave scheduler: keep the catalog true and jobs going."""

from __future__ import annotations

from pathlib import Path

import click

from cli.command import Command
from cli.options import config_option


@click.command(
    cls=Command,
    examples=(
        "fleetsave scheduler                                   with /etc/fleetsave/fleetsave.toml",
        "fleetsave scheduler --config ./control.toml",
    ),
)
@config_option
def scheduler(*, config: Path | None, as_json: bool) -> int:
    """Apply what hosts report, ring again for jobs that wait, find out about jobs that went silent.

    Runs on the control host until told to stop; of several that share a catalog, one leads. The log goes to
    stderr, one JSON object a line.
    """
    del as_json  # The log is JSON anyway, and there is no other output.
    from scheduler.process import run_scheduler
    from tasks.config import load_settings

    return run_scheduler(load_settings(config))
