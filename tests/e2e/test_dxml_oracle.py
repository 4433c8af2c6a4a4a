"""The comparison of domain XMLs against libvirt itself: every verdict of ours is libvirt's, or stricter.

`virsh save-image-define` compares the XML of an image with another one as a restore does, and needs no
guest for it. FULL=1 tries all mutations, not every second.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from lxml import etree

from cli.sandbox import Guest, Host, Sandbox
from engine.domxml.compare import compare
from engine.domxml.document import parse_domain_xml
from engine.errors import AbiError
from tests.data.domain_mutations import Mutation, Mutator
from tests.data.libvirt_peer import make_image
from tests.data.stricter import STRICTER

pytestmark = pytest.mark.e2e

DATA: Final = Path(__file__).parent.parent / "data"
NAMES: Final = sorted(path.stem for path in (DATA / "domains").glob("*.xml"))
STRIDE: Final = 1 if os.environ.get("FULL") else 2
#: Bytes of memory behind the head of an image; nobody reads them.
STREAM: Final = b"QEVM" + bytes(4096)

CONFIG_UNSUPPORTED: Final = 67
#: How the check words its refusals; all else with this number is about XML that makes no sense.
REFUSAL: Final = re.compile(r"Target |State of |differs|does(n't| not) match")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What libvirt says of new XML for an image."""

    #: None where it did not come to compare: the XML makes no sense to it.
    is_stable: bool | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumps:
    """One domain as libvirt prints it."""

    migratable: str
    plain: str


Judge = Callable[[Sequence[tuple[str, Sequence[str]]]], list[list[Verdict]]]


@pytest.fixture(scope="module")
def dumps(sandbox: Sandbox) -> Iterator[dict[str, Dumps]]:
    """Give both dumps of every domain of tests/data/domains, defined on alpha."""
    host = sandbox.hosts["alpha"]
    yield {name: _define(host, name) for name in NAMES}
    for name in NAMES:
        host.virsh("undefine", name)


@pytest.fixture(scope="module")
def judge(sandbox: Sandbox) -> Judge:
    """Give a function that asks alpha's libvirt about images' XML and new ones for each."""
    host = sandbox.hosts["alpha"]

    def ask(cases: Sequence[tuple[str, Sequence[str]]]) -> list[list[Verdict]]:
        lines = []
        for number, (xml, others) in enumerate(cases):
            image = make_image(xml, STREAM)
            lines.append({"path": f"{host.home}/{number}.save", "head": image.hex()})
            lines += [{"xml": other} for other in others]
        script = (DATA / "save_image_judge.py").read_text()
        done = host.run(
            [*host.python, "-c", script],
            input="".join(f"{json.dumps(line)}\n" for line in lines),
            timeout=280,
        )
        answers = map(json.loads, done.stdout.splitlines())
        return [[_verdict(*next(answers)) for _ in others] for _, others in cases]

    return ask


def _define(host: Host, name: str) -> Dumps:
    file = host.home / f"{name}.xml"
    file.write_text((DATA / "domains" / f"{name}.xml").read_text())
    file.chmod(0o644)
    host.virsh("define", file)
    return Dumps(
        migratable=host.virsh("dumpxml", name, "--migratable", "--security-info"),
        plain=host.virsh("dumpxml", name, "--security-info"),
    )


def _verdict(code: int, message: str) -> Verdict:
    if code == 0:
        return Verdict(is_stable=True, message="")
    is_judged = code == CONFIG_UNSUPPORTED and REFUSAL.search(message)
    return Verdict(is_stable=False if is_judged else None, message=message)


def parse(text: str) -> etree._Element:
    """Return the <domain> element of a text."""
    return parse_domain_xml(text, where="test")


def test_no_mutation_is_stable_that_libvirt_refuses(dumps: dict[str, Dumps], judge: Judge) -> None:
    """Thousands of changes in one place each; where we are stricter it is listed, with its reason."""
    roots = {name: parse(both.migratable) for name, both in dumps.items()}
    mutator = Mutator(list(roots.values()))
    mutations = {name: mutator.mutate(root)[::STRIDE] for name, root in roots.items()}
    verdicts = judge([(dumps[name].migratable, [one.xml for one in mutations[name]]) for name in NAMES])

    judged, wrong, stricter = 0, [], []
    for name, answers in zip(NAMES, verdicts, strict=True):
        for mutation, verdict in zip(mutations[name], answers, strict=True):
            if verdict.is_stable is None:
                continue
            judged += 1
            found = compare(roots[name], parse(mutation.xml), is_image=True)
            if found.stable and not verdict.is_stable:
                wrong.append((name, mutation.what, verdict.message))
            elif not found.stable and verdict.is_stable:
                stricter.append((name, mutation))

    assert wrong == []
    assert _unlisted(stricter) == []
    assert len(roots) >= 12
    assert judged >= 5000 // STRIDE
    if STRIDE == 1:
        assert [entry for entry in STRICTER if not any(entry.covers(one) for _, one in stricter)] == []


def _unlisted(stricter: Sequence[tuple[str, Mutation]]) -> list[tuple[str, str]]:
    """Return what we refuse and libvirt allows, and nobody has given a reason for."""
    return [
        (name, mutation.what)
        for name, mutation in stricter
        if not any(entry.covers(mutation) for entry in STRICTER)
    ]


def test_dumps_of_one_domain_are_stable(dumps: dict[str, Dumps]) -> None:
    """Each is the same as itself; the live and the migratable dump are one machine, either way round."""
    for both in dumps.values():
        migratable, plain = parse(both.migratable), parse(both.plain)
        assert compare(migratable, parse(both.migratable)).differences == ()
        assert compare(plain, parse(both.plain)).differences == ()
        for old, new in ((migratable, plain), (plain, migratable)):
            assert [one for one in compare(old, new).differences if one.guest_visible] == []


def test_dumps_of_one_domain_in_an_image(dumps: dict[str, Dumps], judge: Judge) -> None:
    """The plain dump restores every image; libvirt refuses some images that were defined with one."""
    cases = [(both.migratable, [both.plain]) for both in dumps.values()]
    cases += [(both.plain, [both.migratable]) for both in dumps.values()]

    verdicts = [verdict.is_stable for (verdict,) in judge(cases)]
    ours = [compare(parse(old), parse(new), is_image=True).stable for old, (new,) in cases]

    assert all(verdicts[: len(NAMES)])
    assert all(ours[: len(NAMES)])
    assert not all(verdicts)
    assert not any(mine and not its for mine, its in zip(ours, verdicts, strict=True))


def test_domains_of_others_are_refused(dumps: dict[str, Dumps], judge: Judge) -> None:
    """No domain is stable against another."""
    for name, other in zip(NAMES, [*NAMES[1:], NAMES[0]], strict=True):
        ((verdict,),) = judge([(dumps[name].migratable, [dumps[other].migratable])])
        assert verdict.is_stable is False
        assert not compare(parse(dumps[name].migratable), parse(dumps[other].migratable)).stable


CHANGES: Final = {
    "description": ("</name>", "</name><description>elsewhere</description>"),
    "network": ("<interface type='user'>", "<interface type='ethernet'>"),
    "mac": ("52:54:00:ab:cd:01", "52:54:00:ab:cd:02"),
    "feature": ("<acpi/>", "<acpi/><pae/>"),
    "mtu": ("<model type='e1000'/>", "<model type='e1000'/><mtu size='9000'/>"),
}
STABLE: Final = {"description", "network"}


def test_real_guest_is_restored_or_not(guest_factory: Callable[..., Guest], folder: Path) -> None:
    """What we call stable, `virsh restore --xml` takes, as `virsh save --xml` does; the rest both refuse."""
    guest = guest_factory(
        devices="<interface type='user'><mac address='52:54:00:ab:cd:01'/><model type='e1000'/></interface>"
    )
    guest.start()
    guest.wait_counting()
    host, image = guest.host, folder / "a.save"
    live = host.virsh("dumpxml", guest.name, "--security-info")
    saved = host.virsh("dumpxml", guest.name, "--migratable", "--security-info")
    # The live dump has the processor as it runs, the image as it was defined: libvirt tells them apart, too.
    assert {one.xpath for one in compare(parse(live), parse(saved)).differences if one.guest_visible} == {
        "/domain/cpu[1]/@check",
        "/domain/cpu[1]/feature[1]",
        "/domain/cpu[1]/feature[2]",
    }
    for name in CHANGES.keys() - STABLE:
        new = _write(folder / f"{name}.xml", saved.replace(*CHANGES[name]))
        refused = host.run(["virsh", "save", guest.name, image, "--xml", new], check=False)
        assert REFUSAL.search(refused.stderr), refused.stderr
        assert not compare(parse(saved), parse(new.read_text())).stable
    host.virsh("save", guest.name, image, "--xml", _write(folder / "same.xml", saved))
    # Not virsh save-image-dumpxml, which parses the XML and prints what came of it.
    in_image = host.fleetsave("image", "dumpxml", image, "--security-info", check=True).stdout

    for name, change in CHANGES.items():
        new = _write(folder / f"{name}.xml", saved.replace(*change))
        assert compare(parse(in_image), parse(new.read_text()), is_image=True).stable is (name in STABLE)
        checked = host.fleetsave("dxml", "check", image, new)
        assert checked.returncode == (0 if name in STABLE else AbiError.exit_code), checked.stdout
        if name == "network":
            # An interface of another type needs rights that the session has not.
            continue
        done = host.run(["virsh", "restore", image, "--xml", new], check=False)
        assert (done.returncode == 0) is (name in STABLE), done.stderr
        if done.returncode == 0:
            host.virsh("destroy", guest.name)


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o644)
    return path
