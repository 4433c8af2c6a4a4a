"""fleetsave config: what is set, whether it is right, and who may do what in Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.command import Command, Group
from cli.options import config_option
from cli.output import print_json


@click.group(
    cls=Group,
    lazy={
        "show": "cli.config:show",
        "check": "cli.config:check",
        "redis-acl": "cli.redis_acl:redis_acl",
    },
    examples=(
        "fleetsave config show                                   what counts, secrets hidden",
        "fleetsave config check --config ./alpha.toml            exit code 2 names the wrong key",
        "fleetsave config redis-acl --host alpha --host beta --control --passwords ./passwords",
    ),
)
def config() -> None:
    """Show and check this machine's settings; make the access rules of Redis."""


@click.command(cls=Command, examples=("fleetsave config show", "fleetsave config show --json"))
@config_option
def show(*, config: Path | None, as_json: bool) -> int:
    """Print the settings that count: defaults, file and environment together, secrets hidden."""
    settings = _load(config)
    if as_json:
        print_json(settings)
    else:
        for line in _format_lines(settings):
            click.echo(line)
    return 0


@click.command(
    cls=Command, examples=("fleetsave config check", "fleetsave config check --config ./alpha.toml")
)
@config_option
def check(*, config: Path | None, as_json: bool) -> int:
    """Look whether the settings, and the files that they name, can be used; exit code 2 names the wrong key.

    Nothing outside this machine is asked: see fleetsave doctor for that.
    """
    from tasks.app import make_app
    from tasks.config import load_settings
    from tasks.keyring import Keyring

    settings = load_settings(config)
    make_app(settings).close()
    trusted = sorted(Keyring(settings.trust.keys, settings.trust.keys_dir).list_keys())
    if as_json:
        print_json({"right": True, "host": settings.host.name, "trusted_keys": trusted})
    else:
        whom = "anybody (insecure)" if settings.trust.insecure else ", ".join(trusted) or "nobody"
        click.echo(f"the settings of {settings.host.name} are right; jobs are taken from {whom}")
    return 0


def _load(file: Path | None) -> dict[str, Any]:
    """Return the settings as JSON has them, without passwords."""
    from tasks.broker import redact_url
    from tasks.config import load_settings

    settings = load_settings(file)
    document: dict[str, Any] = settings.model_dump(mode="json")
    for key in ("broker_url", "catalog_url"):
        document[key] = redact_url(document[key])
    return document


def _format_lines(document: dict[str, Any], prefix: str = "") -> list[str]:
    """Return one line for each key that holds a value: `host.name = "alpha"`."""
    import json

    lines: list[str] = []
    for key, value in document.items():
        if isinstance(value, dict) and value:
            lines += _format_lines(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key} = {json.dumps(value, ensure_ascii=False)}")
    return lines
