"""fleetsave worker: run this host's jobs."""

from __future__ import annotations

from pathlib import Path

import click

from cli.command import Command
from cli.options import config_option


@click.command(
    cls=Command,
    examples=(
        "fleetsave worker                                      with /etc/fleetsave/fleetsave.toml",
        "fleetsave worker --config ./alpha.toml",
    ),
)
@config_option
def worker(*, config: Path | None, as_json: bool) -> int:
    """Take jobs from the broker and run them on this host until told to stop.

    SIGTERM or Ctrl-C lets running jobs finish. The log goes to stderr, one JSON object a line.
    """
    del as_json  # The log is JSON anyway, and there is no other output.
    from tasks.config import load_settings
    from tasks.worker import run_worker

    return run_worker(load_settings(config))
