"""fleetsave keys: make and show the keys that jobs are signed with."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path

import click

from cli.command import Command, Group
from cli.output import print_json
from tasks.errors import UsageError


@click.group(
    cls=Group,
    lazy={"generate": "cli.keys:generate", "show": "cli.keys:show"},
    examples=(
        "fleetsave keys generate --out /etc/fleetsave --name control-2026     on the control host",
        "fleetsave keys show /etc/fleetsave/control-2026.pub                  what hosts have to trust",
    ),
)
def keys() -> None:
    """Make and show the keys that jobs are signed with."""


@click.command(
    cls=Command,
    examples=(
        "fleetsave keys generate",
        "fleetsave keys generate --out /etc/fleetsave --name control-2026",
    ),
)
@click.option(
    "--out",
    metavar="DIR",
    default=Path(),
    type=click.Path(path_type=Path),
    help="Directory for ID.key and ID.pub; default: here.",
)
@click.option("--name", metavar="ID", help="Key id; default: this machine's name and the year.")
def generate(*, out: Path, name: str | None, as_json: bool) -> int:
    """Make a key: ID.key is secret (mode 0600) and stays here, ID.pub goes to whom has to trust it.

    Nothing that exists is written over.
    """
    from tasks.keys import generate_key, is_key_id, write_key

    key_id = name or f"{socket.gethostname().partition('.')[0]}-{datetime.now(UTC):%Y}"
    if not is_key_id(key_id):
        raise UsageError(
            f"--name {key_id!r}", "cannot be a key id", "up to 64 letters, digits, dots, dashes, underscores"
        )
    key = generate_key(key_id)
    private, public = write_key(key, out)
    if as_json:
        print_json(
            {
                "key_id": key_id,
                "private_file": private,
                "public_file": public,
                "public_key": key.public.text,
            }
        )
        return 0
    click.echo(f"private key, keep it here:   {private}")
    click.echo(f"public key, hosts trust it:  {public}")
    _print_settings(key_id, key.public.text)
    return 0


@click.command(cls=Command, examples=("fleetsave keys show control-2026.pub",))
@click.argument("file", type=click.Path(path_type=Path))
def show(*, file: Path, as_json: bool) -> int:
    """Print the id and the public half of the key in FILE, be it private or public; never what is secret."""
    from tasks.keys import read_public_key

    key = read_public_key(file)
    if as_json:
        print_json({"key_id": key.key_id, "public_key": key.text})
    else:
        click.echo(f"{key.key_id}  {key.text}")
        _print_settings(key.key_id, key.text)
    return 0


def _print_settings(key_id: str, text: str) -> None:
    """Print what goes into the settings of hosts."""
    click.echo("")
    click.echo("on each host, in fleetsave.toml:")
    click.echo("[trust.keys]")
    click.echo(f'"{key_id}" = "{text}"')
