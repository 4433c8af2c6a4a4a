"""fleetsave image: look at save images and change what stands before the memory; no daemon needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from cli.bar import open_bar
from cli.command import Command, Group
from cli.failure import format_failure
from cli.options import bypass_option, paused_option, rewrite_option, running_option
from cli.order import read_rules
from cli.output import NOTHING, format_bytes, format_rate, format_seconds, print_json
from cli.textfile import read_text
from engine.define import Definition, image_define
from engine.domxml.document import XML_SIZE_MAX
from engine.errors import ImageIncompleteError
from engine.examine import ImageInfo, image_dumpxml, image_info
from engine.flags import SaveFlags
from engine.verify import Verification, image_verify

#: Columns before the values of `image info`.
_LABEL_WIDTH: Final = 15

_path_argument: Final = click.argument("path", metavar="PATH", type=click.Path(path_type=Path))


@click.group(
    cls=Group,
    lazy={
        "info": "cli.image:info",
        "dumpxml": "cli.image:dumpxml",
        "define": "cli.image:define",
        "verify": "cli.image:verify",
    },
    examples=(
        "fleetsave image info web-1.save",
        "fleetsave image dumpxml web-1.save --security-info > web-1.xml",
        "fleetsave image define web-1.save web-1.xml --paused",
        "fleetsave image verify web-1.save",
    ),
)
def image() -> None:
    """Look at save images, verify them, change their domain XML.

    PATH is an image that fleetsave or virsh wrote, in any format, or the directory of a restore
    point. No libvirt is needed, nor anything else that runs.
    """


@click.command(
    "info",
    cls=Command,
    examples=("fleetsave image info web-1.save", "fleetsave image info /srv/store/UUID/POINT --json"),
)
@_path_argument
def info(path: Path, *, as_json: bool) -> int:
    """Say what an image is: whose, how stored, whether it is complete, how much larger its XML may be.

    An image that is not complete is described, too; the exit code is 12 then.
    """
    found = image_info(path)
    error = None
    if not found.is_complete:
        error = ImageIncompleteError(found.path, found.incomplete_because, "", "restore an earlier image")
    if as_json:
        print_json({**found.to_dict(), **({"error": error.to_dict()} if error else {})})
    else:
        for label, value in _lines(found):
            click.echo(f"{label:{_LABEL_WIDTH}}{_printable(value)}")
    if error is None:
        return 0
    click.echo(format_failure(error.to_dict()), err=True)
    return error.exit_code


@click.command(
    "dumpxml",
    cls=Command,
    examples=(
        "fleetsave image dumpxml web-1.save",
        "fleetsave image dumpxml web-1.save --security-info > web-1.xml",
    ),
)
@_path_argument
@click.option("--security-info", is_flag=True, help="With passwords, as `image define` wants them.")
def dumpxml(path: Path, *, security_info: bool, as_json: bool) -> None:
    """Print the domain XML of an image; passwords are hidden unless asked for."""
    xml = image_dumpxml(path, security_info=security_info)
    if as_json:
        print_json({"path": str(path.absolute()), "xml": xml, "has_passwords_hidden": not security_info})
    else:
        click.echo(xml, nl=not xml.endswith("\n"))


@click.command(
    "define",
    cls=Command,
    examples=(
        "fleetsave image define web-1.save new.xml             as dumpxml --security-info wrote it, changed",
        "fleetsave image define web-1.save new.xml --paused    and paused after a restore",
        "fleetsave image define web-1.save --rewrite to-kvm2.toml    changed by rules",
        "fleetsave image define web-1.save --running           only this, the XML stays",
    ),
)
@_path_argument
@click.argument("file", metavar="[NEW.xml]", type=click.Path(path_type=Path, allow_dash=True), required=False)
@rewrite_option
@running_option
@paused_option
def define(
    path: Path, file: Path | None, *, rules: Path | None, running: bool, paused: bool, as_json: bool
) -> None:
    """Replace the domain XML of an image, or whether its guest runs after a restore.

    A whole new image is made and takes the old one's name in one instant, with its manifest: no
    crash leaves anything else than one of the two. NEW.xml may be - for standard input.
    """
    flags = (SaveFlags.RUNNING if running else 0) | (SaveFlags.PAUSED if paused else 0)
    dxml = None if file is None else read_text(file, what="domain XML", size_max=XML_SIZE_MAX)
    with open_bar(f"define {path.name}", is_silent=as_json) as observer:
        done = image_define(path, dxml, flags, rules=read_rules(rules), observer=observer)
    if as_json:
        print_json(done.to_dict())
    else:
        click.echo(_defined(done))


@click.command(
    "verify",
    cls=Command,
    examples=(
        "fleetsave image verify web-1.save",
        "fleetsave image verify /srv/store/UUID/POINT --json",
        "fleetsave image verify web-1.save --bypass-cache prefer",
    ),
)
@_path_argument
@bypass_option
def verify(path: Path, *, bypass_cache: str, as_json: bool) -> None:
    """Read an image from the disk, every byte, and compare it with its manifest.

    Exit code 13 if it is damaged: each damaged part of 64 MiB is named. An image without a
    manifest, as virsh makes them, is read to its end; there is nothing to compare it with.
    """
    with open_bar(f"verify {path.name}", is_silent=as_json) as observer:
        found = image_verify(path, bypass_cache=bypass_cache, observer=observer)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(_verified(found))


def _lines(found: ImageInfo) -> Iterator[tuple[str, str]]:
    """Yield label and value of each line of `image info`."""
    machine = found.machine
    yield "image", found.path
    state = "complete" if found.is_complete else f"INCOMPLETE: {found.incomplete_because}"
    yield "state", f"{state} ({found.magic})"
    yield (
        "format",
        f"{found.format} ({found.format_code}), version {found.version}, {found.byte_order}-endian",
    )
    yield "domain", f"{found.domain} ({found.domain_uuid or 'no uuid'})"
    yield "machine", " ".join(filter(None, (machine.machine, machine.architecture))) or NOTHING
    yield "CPU", machine.cpu or NOTHING
    vcpus = "" if machine.vcpus is None else f", {machine.vcpus} CPU{'' if machine.vcpus == 1 else 's'}"
    yield "memory", format_bytes(machine.memory_bytes) + vcpus
    yield "after restore", "running" if found.was_running else "paused"
    yield "file", f"{format_bytes(found.file_bytes)} ({found.file_bytes} bytes)"
    room = f"cookie {format_bytes(found.cookie_bytes)}, room for {format_bytes(found.padding_bytes)} more"
    yield "head", f"{format_bytes(found.head_bytes)}: XML {format_bytes(found.xml_bytes)}, {room}"
    yield "memory stream", f"{format_bytes(found.stream_bytes)} from byte {found.head_bytes}"
    yield from _manifest_lines(found)


def _manifest_lines(found: ImageInfo) -> Iterator[tuple[str, str]]:
    manifest = found.manifest
    if manifest is None:
        yield "manifest", f"UNUSABLE: {found.manifest_problem}" if found.manifest_problem else "none"
        return
    yield "manifest", f"{manifest.op} of {manifest.domain} on {manifest.host}, {manifest.taken_at}"
    yield "made with", ", ".join((
        f"fleetsave {manifest.fleetsave_version}",
        f"libvirt {manifest.libvirt_version}",
        f"hypervisor {manifest.hypervisor_version}" + (" (simulated)" if manifest.simulated else ""),
    ))  # fmt: skip
    yield "checksum", f"{manifest.checksum.algorithm} {manifest.checksum.value}"


def _defined(done: Definition) -> str:
    """Return the sentence for people."""
    if not done.is_changed:
        return f"unchanged: {done.path} says all this already"
    changes = f"{len(done.dxml_changes)} change{'' if len(done.dxml_changes) == 1 else 's'} of the XML"
    moved = f", memory moved by {format_bytes(done.moved_bytes)}" if done.moved_bytes else ""
    state = "running" if done.was_running else "paused"
    return f"defined {done.path}: {changes}, {state} after a restore{moved}"


def _verified(found: Verification) -> str:
    """Return the sentence for people."""
    sums = found.checksum
    how = f"{format_bytes(found.bytes)} in {format_seconds(found.duration_seconds)}"
    rate = format_rate(found.throughput_bytes_per_second)
    if found.is_compared:
        parts = f"{len(sums.parts)} part{'' if len(sums.parts) == 1 else 's'}"
        return f"verified {found.path}: {parts} as written, {how}, {rate}"
    return (
        f"read {found.path}: {how}, {rate}; no manifest lies beside it, so there is nothing to compare with"
        f" ({sums.algorithm} {sums.value})"
    )


def _printable(text: str) -> str:
    """Return text that cannot move the cursor: names come from anywhere."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
