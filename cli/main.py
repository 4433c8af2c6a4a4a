"""Run the command line: parse, call, print, exit."""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Sequence
from typing import Final, TextIO

import click
from click.exceptions import Exit, NoArgsIsHelpError

from cli.command import Group
from cli.failure import describe_failure, format_failure, wants

_COMMANDS: Final = {
    "save": "cli.save:save",
    "restore": "cli.restore:restore",
    "checkpoint": "cli.checkpoint:checkpoint",
    "managed-save": "cli.managed:managed_save",
    "start": "cli.managed:start",
    "dump": "cli.dump:dump",
    "jobs": "cli.jobs:jobs",
    "hosts": "cli.hosts:hosts",
    "domains": "cli.domains:domains",
    "points": "cli.points:points",
    "image": "cli.image:image",
    "dxml": "cli.dxml.group:dxml",
    "catalog": "cli.catalog:catalog",
    "worker": "cli.worker:worker",
    "scheduler": "cli.scheduler:scheduler",
    "doctor": "cli.doctor:doctor",
    "config": "cli.config:config",
    "keys": "cli.keys:keys",
    "demo": "cli.demo.command:demo",
}


@click.group(
    cls=Group,
    lazy=_COMMANDS,
    examples=(
        "fleetsave save web-1                              save one domain into its host's store",
        "fleetsave save web-1 --local --to web-1.save      without broker and catalog, on this host",
        "fleetsave restore web-1.save --local              start it again where it was",
        "fleetsave checkpoint web-1                        a restore point; the guest goes on running",
        "fleetsave jobs list                               what ran and what became of it",
        "fleetsave doctor                                  whether this host is fit, and what is to be done",
        "fleetsave demo                                    all of it on a fleet of this machine",
    ),
)
@click.version_option(package_name="fleetsave", prog_name="fleetsave", message="%(prog)s %(version)s")
def fleetsave() -> None:
    """Save and restore the running state of libvirt guests across a fleet, past the page cache.

    \b
    Exit codes: 0 done, 1 unexpected, 2 usage, 3 some domains failed, 10 format, 11 another
    domain or machine, 12 incomplete image, 13 checksum, 20 storage, 21 no space, 22 page cache
    not bypassed, 23 path not allowed, 30 hypervisor, 31 no such domain, 32 domain busy, 33 wrong
    state, 34 not supported, 35 denied, 40 broker or catalog unreachable, 41 refused job,
    75 try again later, 130 interrupted.
    """  # noqa: D301 - \b is click's mark for a paragraph that is not wrapped


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit; every failure becomes one line (or JSON object) and an exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Not click's own main(): it hides every broken pipe, the engine's included.
        with fleetsave.make_context("fleetsave", words) as context:
            code = fleetsave.invoke(context)
    except Exit as ended:
        code = ended.exit_code
    except NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = error.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - nobody above us would put it in one line
        code = _leave(sys.stdout) if _has_lost_its_reader(error) else _report(error, words)
    sys.exit(code or 0)


def _has_lost_its_reader(error: BaseException) -> bool:
    """Tell whether whoever read our output has left, as `head` does, and that is the whole error."""
    if not isinstance(error, BrokenPipeError):
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _leave(stream: TextIO) -> int:
    """Let nothing more be written to a stream that nobody reads; return the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return 1


def _report(error: BaseException, words: Sequence[str]) -> int:
    """Say what went wrong, once, and return the exit code."""
    failure = describe_failure(error)
    if wants("--debug", words):
        traceback.print_exception(error, file=sys.stderr)
    if wants("--json", words):
        from cli.output import print_json

        print_json({"error": failure})
    else:
        click.echo(format_failure(failure), err=True)
    return int(failure["code"])


if __name__ == "__main__":
    main()
