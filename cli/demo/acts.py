"""Play the demo: four guests on two hosts are saved, restored, and looked at."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lxml import etree

from cli.demo.checks import CheckList, check_jobs, check_points
from cli.demo.fleet import Fleet
from cli.demo.numbers import check_metrics, list_changes, tabulate
from cli.demo.story import Story
from cli.sandbox import Guest, GuestSpec, Host, SandboxError
from engine.store.places import XML_NAME
from tasks.catalog import JobView, open_catalog, queries

#: Which guests each host runs.
GUESTS: Final = {"alpha": ("web-1", "web-2"), "beta": ("db-1", "db-2")}
#: The one that is restored with other domain XML, and the one that moves to the other host.
_CHANGED: Final = "web-2"
_MEMORY_MIB: Final = 160
_FILL_MIB: Final = 64
_MOVED: Final = "db-2"
_NEW_HOST: Final = "alpha"
#: Counts between two looks that a guest takes at its memory, with room for the look itself.
_COUNTS_TO_CHECK: Final = 27


@dataclass(slots=True, kw_only=True)
class Watched:
    """One guest and what was seen of it."""

    guest: Guest
    home: str
    #: Last number it printed before it was saved.
    before: int = 0
    #: First number it printed after it was restored.
    after: int = 0
    memory_ok: bool = False
    saved: JobView | None = None
    restored: JobView | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        return {
            "domain": self.guest.name,
            "saved_on": self.home,
            "restored_on": self.guest.host.name,
            "counter_before_save": self.before,
            "counter_after_restore": self.after,
            "memory_ok": self.memory_ok,
            "save": self.saved.result if self.saved else None,
            "restore": self.restored.result if self.restored else None,
        }


class Demo:
    """The acts in their order; each notes what it claims and what it saw.

    Args:
        fleet: two hosts with workers.
        story: told what happens.
    """

    def __init__(self, fleet: Fleet, story: Story) -> None:
        self._fleet: Final = fleet
        self._story: Final = story
        self._hosts: Final = fleet.sandbox.hosts
        self.checks: Final = CheckList()
        self.watched: Final[dict[str, Watched]] = {}
        #: Samples that moved.
        self.changes: list[dict[str, object]] = []

    def start_guests(self) -> None:
        """Boot all guests and wait until each counts."""
        story = self._story
        story.chapter("Four guests boot")
        story.say("Each fills 64 MiB of its memory with random data and counts aloud on its serial port.")
        story.say("The counter lives in guest memory only: if it goes on after a restore, memory came back.")
        for host, names in GUESTS.items():
            for name in names:
                spec = GuestSpec(name=name, memory_mib=_MEMORY_MIB, fill_mib=_FILL_MIB)
                guest = self._hosts[host].define(spec)
                guest.start()
                self.watched[name] = Watched(guest=guest, home=host)
        for one in self.watched.values():
            one.guest.wait_counting(timeout=120)
        # Workers report their domains about once a second.
        self._wait_known()
        story.say("")
        self._run("domains", "list")

    def save_all(self) -> None:
        """Save the whole fleet with one command, through broker and workers."""
        story = self._story
        story.chapter("The whole fleet is saved: one command, one job for each domain")
        story.say(
            "Each job travels through Redis to its host's worker, whose engine process streams the guest's"
        )
        story.say("memory past the page cache into a restore point that appears only when it is whole.")
        story.say("")
        self._run("save", *self.watched, "--wait")
        jobs = self._newest_jobs("save")
        for one in self.watched.values():
            one.saved = jobs.get(one.guest.name)
            one.before = one.guest.counter()
        check_jobs(self.checks, list(jobs.values()), "save", len(self.watched))
        check_points(self.checks, list(jobs.values()))
        still = [name for name, one in self.watched.items() if one.guest.state() != "shut off"]
        self.checks.add_all("saved guests have ended", still, "virsh: shut off")
        self._check_staging()

    def restore_all(self) -> None:
        """Restore all guests: two as they were, one with other domain XML, one on the other host."""
        story = self._story
        story.chapter("All four come back")
        story.say("Two as they were, by the names of their restore points.")
        for name, one in self.watched.items():
            if name not in {_CHANGED, _MOVED}:
                self._restore(one, _point(one).name)
        self._restore_changed(self.watched[_CHANGED])
        self._restore_moved(self.watched[_MOVED])
        jobs = self._newest_jobs("restore")
        for one in self.watched.values():
            one.restored = jobs.get(one.guest.name)
        check_jobs(self.checks, list(jobs.values()), "restore", len(self.watched))

    def prove_memory(self) -> None:
        """Wait until each guest has gone on and has looked at its memory again."""
        story = self._story
        story.chapter("Did memory come back? The guests say so themselves")
        rows = []
        for name, one in self.watched.items():
            try:
                one.guest.wait_counter_beyond(one.before + _COUNTS_TO_CHECK, timeout=60)
            except SandboxError as error:
                self.checks.add(f"{name}: the guest runs", False, error)
            later = [number for number in one.guest.counters() if number > one.before]
            one.after = later[0] if later else 0
            one.memory_ok = one.guest.memory_ok()
            goes_on = one.before < one.after <= one.before + 2
            seen = f"{one.before} before the save, {one.after} after the restore"
            self.checks.add(f"{name}: its counter goes on", goes_on, seen)
            where = (
                one.guest.host.name
                if one.guest.host.name == one.home
                else f"{one.home} -> {one.guest.host.name}"
            )
            memory = "ok" if one.memory_ok else "BAD"
            rows.append((name, where, str(one.before), str(one.after), str(one.guest.counter()), memory))
        bad = [name for name, one in self.watched.items() if not one.memory_ok]
        self.checks.add_all("every guest finds its memory as it was", bad, "the guests' own checksums")
        columns = ("domain", "host", "last before", "first after", "now", "memory")
        story.table(columns, rows, right=("last before", "first after", "now"))

    def show_metrics(self, before: dict[str, Any]) -> None:
        """Show what moved on the workers' /metrics since `before`."""
        story, after = self._story, self._fleet.scrape()
        story.chapter("What Prometheus would see: /metrics of the two workers, before -> after")
        self.changes = list_changes(before, after)
        hosts = list(self._hosts)
        story.table(("metric (fleetsave_...)", *hosts), tabulate(self.changes, hosts), right=hosts)
        size = sum((one.saved.result or {}).get("bytes", 0) for one in self.watched.values() if one.saved)
        check_metrics(self.checks, before, after, count=len(self.watched), size=size)
        story.say(
            "cache_bypass_failures_total and page_cache_resident_bytes are not listed: they stayed at 0."
        )

    def _restore_changed(self, one: Watched) -> None:
        """Restore with domain XML that sends the serial port to another file; see that it does."""
        story, name = self._story, one.guest.name
        serial = one.guest.serial.with_name(f"{name}-after-restore.log")
        serial.touch()
        serial.chmod(0o666)
        dxml = self._fleet.folder / f"{name}.xml"
        dxml.write_text(_redirect_serial((_point(one) / XML_NAME).read_text(), serial))
        story.say("")
        story.say(f"{name} with changed domain XML (dxml): its serial port goes to another file from now on.")
        self._restore(one, _point(one).name, "--dxml", dxml.name)
        one.guest = replace(one.guest, serial=serial)
        shown = _serial_of(one.guest.host.virsh("dumpxml", name)) if one.guest.state() == "running" else ""
        story.say(f"virsh dumpxml {name} says: serial port -> {Path(shown).name}")
        self.checks.add(
            f"{name}: the dxml took effect", shown == str(serial), f"virsh: to {Path(shown).name}"
        )

    def _restore_moved(self, one: Watched) -> None:
        """Copy a restore point into the other host's store and restore it there."""
        story, name, target = self._story, one.guest.name, self._hosts[_NEW_HOST]
        story.say("")
        story.say(f"{name} on the other host: its restore point is copied from {one.home} to {target.name}.")
        copy = _copy_point(_point(one), target)
        self._restore(one, str(copy), "--host", target.name)
        old, one.guest = one.guest, target.guest(one.guest.spec)
        names = target.domain_names()
        here = one.guest.state() if name in names else "missing"
        story.say(f"virsh domstate {name}: {here} on {target.name}, {old.state()} on {one.home}")
        is_moved = here == "running" and old.state() == "shut off"
        self.checks.add(
            f"{name}: runs on the other host",
            is_moved,
            f"virsh: {here} on {target.name}, {old.state()} on {one.home}",
        )

    def _restore(self, one: Watched, point: str, *options: str) -> None:
        """Restore one guest through the command line."""
        self._run("restore", point, *options)
        if one.guest.name not in {_CHANGED, _MOVED}:
            state = one.guest.state()
            self.checks.add(f"{one.guest.name}: runs again", state == "running", f"virsh: {state}")

    def _run(self, *arguments: str) -> None:
        """Run one `fleetsave` command of the control side, its output where ours goes."""
        self._story.command(arguments)
        output = subprocess.DEVNULL if self._story.is_silent else None
        done = subprocess.run(
            self._fleet.argv(*arguments),
            env=self._fleet.environment,
            cwd=self._fleet.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            check=False,
        )
        if done.returncode:
            self.checks.add(f"fleetsave {arguments[0]} exits with 0", False, f"exit code {done.returncode}")

    def _newest_jobs(self, op: str) -> dict[str, JobView]:
        """Return the jobs of an operation by the name of their domain."""
        with open_catalog(self._fleet.catalog_url) as catalog:
            jobs = [job for job in queries.list_jobs(catalog) if job.op == op]
        found = {str((job.result or {}).get("domain", job.label)): job for job in jobs}
        return {name: found[name] for name in (*self.watched, *found) if name in found}

    def _wait_known(self) -> None:
        """Wait until the hosts have reported all guests as running."""
        self._fleet.wait_domains(dict.fromkeys(self.watched, "running"))

    def _check_staging(self) -> None:
        left = [str(path) for host in self._hosts.values() for path in host.store.glob(".staging/*")]
        self.checks.add_all("nothing half-made is left in the stores", left, ".staging is empty")


def _point(one: Watched) -> Path:
    """Return the directory of the guest's restore point.

    Raises:
        SandboxError: there is none; nothing that follows could work.
    """
    result = one.saved.result if one.saved else None
    if result is None:
        raise SandboxError(f"{one.guest.name} was not saved: {one.saved.reason if one.saved else 'no job'}")
    return Path(result["path"])


def _copy_point(point: Path, host: Host) -> Path:
    """Copy a restore point into another host's store, owned by the host's user; return the copy."""
    copy = host.store / point.parent.name / point.name
    copy.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.copytree(point, copy)
    for path in (copy.parent, copy, *copy.iterdir()):
        os.chown(path, host.uid, host.account.user.gid)
    return copy


def _redirect_serial(xml: str, file: Path) -> str:
    root = etree.fromstring(xml.encode())
    for source in root.findall("devices/*/source[@append='on']"):
        source.set("path", str(file))
    return etree.tostring(root, encoding="unicode")


def _serial_of(xml: str) -> str:
    source = etree.fromstring(xml.encode()).find("devices/serial/source")
    return "" if source is None else source.get("path", "")
