"""fleetsave restore: start a guest from an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.command import Command
from cli.operate import operate
from cli.options import (
    bypass_option,
    data_path_option,
    dry_run_option,
    dxml_option,
    given,
    paused_option,
    place_options,
    rewrite_option,
    running_option,
)
from cli.order import Order, read_dxml, read_rules


@click.command(
    cls=Command,
    examples=(
        "fleetsave restore 20260131T220000Z-5f0c...            a restore point by its name, on its host",
        "fleetsave restore /srv/web-1.save --host alpha        an image file on a host",
        "fleetsave restore web-1.save --dxml new.xml --paused  with other domain XML, not yet running",
        "fleetsave restore web-1.save --rewrite to-kvm2.toml   with XML changed by rules: renamed disks, say",
        "fleetsave restore web-1.save --as web-1-test --rewrite copies.toml   beside the original",
        "fleetsave restore web-1.save --local                  here, without broker and catalog",
    ),
)
@click.argument("path", metavar="POINT|PATH")
@dxml_option
@rewrite_option
@click.option(
    "--as",
    "new_name",
    metavar="NAME",
    help="Start a copy of this name beside the original: with a UUID and MACs of its own, on other disks.",
)
@running_option
@paused_option
@click.option("--reset-nvram", is_flag=True, help="Start with a fresh copy of the firmware's variables.")
@click.option(
    "--force-stale-disks",
    is_flag=True,
    help="Restore over disks that were written since the save, or cannot be told to be the same: the guest's "
    "memory does not know what is on them, and may corrupt their file systems.",
)
@bypass_option
@data_path_option
@dry_run_option
@place_options
def restore(
    path: str,
    *,
    dxml: Path | None,
    rules: Path | None,
    new_name: str | None,
    running: bool,
    paused: bool,
    reset_nvram: bool,
    force_stale_disks: bool,
    bypass_cache: str,
    data_path: str | None,
    is_dry_run: bool,
    **place: Any,
) -> int:
    """Start the guest of a restore point or save image where it was when it was saved.

    Images that virsh save made are restored, too. The image is only read, and every byte of it is
    checked before the guest runs. Disks that were written since the save are refused. fleetsave points
    list shows what there is to restore.
    """
    params = given(
        path=path,
        new_name=new_name,
        bypass_cache=bypass_cache,
        running=running,
        paused=paused,
        reset_nvram=reset_nvram,
        # Only when it is set: workers of earlier versions do not know it.
        force_stale_disks=force_stale_disks or None,
        data_path=data_path,
    )
    order = Order(op="restore", params=params, **place)
    return operate(order, dxml=read_dxml(dxml), rules=read_rules(rules), is_dry_run=is_dry_run)
