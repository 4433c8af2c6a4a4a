"""fleetsave dxml: what a change of domain XML means for a saved guest, and how to make one."""

from __future__ import annotations

import click

from cli.command import Group


@click.group(
    cls=Group,
    lazy={
        "check": "cli.dxml.check:check",
        "rewrite": "cli.dxml.rewrite:rewrite",
    },
    examples=(
        "fleetsave dxml check saved.xml new.xml",
        "fleetsave dxml rewrite saved.xml --rules to-kvm2.toml --diff",
    ),
)
def dxml() -> None:
    """Compare domain XML as libvirt does before it restores a guest, and rewrite it by rules.

    Both work on text alone: no libvirt is needed, and no guest is touched.
    """
