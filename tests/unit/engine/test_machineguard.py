"""A restore is refused before it begins where this host cannot run the guest, and only there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.domxml.capabilities import HostCpu
from engine.domxml.requirements import read_requirements
from engine.errors import HypervisorError, HypervisorUnreachableError, InvalidArgumentError, NotSupportedError
from engine.flags import BypassPolicy
from engine.hypervisor.port import CpuMatch
from engine.hypervisor.sim.hypervisor import SimHypervisor
from engine.hypervisor.sim.machine import make_xml
from engine.machineguard import check_machine
from engine.store.images import OpenImage, open_image
from tests.data.image_files import UUID, describe
from tests.data.libvirt_peer import make_image
from tests.data.paper_hypervisor import PaperHypervisor

XML = (
    f"<domain type='kvm'><name>web-1</name><uuid>{UUID}</uuid><os>"
    "<type arch='x86_64' machine='pc-q35-9.2'>hvm</type></os>"
    "<cpu mode='custom' match='exact' check='partial'><model>qemu64</model></cpu><devices>"
    "<emulator>/opt/qemu/kvm</emulator>"
    "<disk type='file' device='disk'><target dev='vda' bus='virtio'/></disk></devices></domain>"
)
COOKIE = (
    "<cookie><cpu mode='custom' match='exact' check='full'><model>qemu64</model>"
    "<feature policy='require' name='sse2'/></cpu></cookie>"
)
HOST_CPU = HostCpu(architecture="x86_64", model="Haswell-noTSX", vendor="Intel", signature="6/63")


@contextmanager
def opened(
    folder: Path, xml: str = XML, cookie: str = COOKIE, manifest: dict[str, Any] | None = None
) -> Iterator[OpenImage]:
    """Give an image as a restore opens it; `manifest` is what its manifest says otherwise."""
    path, data = folder / "a.save", make_image(xml, b"QEVM", cookie=cookie)
    path.write_bytes(data)
    if manifest is not None:
        text = replace(describe(data), **manifest).to_json()
        path.with_name("a.save.manifest.json").write_text(text)
    image = open_image(path, BypassPolicy.OFF)
    try:
        yield image
    finally:
        image.file.close()


def check(folder: Path, hypervisor: Any = None, dxml: str | None = None, **image: Any) -> list[str]:
    """Return the warnings."""
    with opened(folder, **image) as one:
        return check_machine(hypervisor or PaperHypervisor(), one, dxml)


def refuse(folder: Path, hypervisor: Any = None, dxml: str | None = None, **image: Any) -> NotSupportedError:
    """Return why it was refused."""
    with pytest.raises(NotSupportedError) as caught:
        check(folder, hypervisor, dxml, **image)
    assert caught.value.exit_code == 34
    assert "\n" not in str(caught.value)
    return caught.value


def test_fitting_guest_passes_without_a_word(tmp_path: Path) -> None:
    """The cookie's processor is what libvirt is asked about, on the guest's own platform."""
    hypervisor = PaperHypervisor()

    assert check(tmp_path, hypervisor) == []
    ((platform, cpu),) = hypervisor.compared
    assert (platform.emulator, platform.machine, platform.virt_type) == ("/opt/qemu/kvm", "pc-q35-9.2", "kvm")
    assert '<feature policy="require" name="sse2"/>' in cpu


def test_refusal_lists_everything_that_is_missing(tmp_path: Path) -> None:
    """Machine type and device at once, with what the host has."""
    hypervisor = PaperHypervisor()
    hypervisor.refuses = lambda platform: (
        InvalidArgumentError("x", "no machine") if platform.machine == "pc-q35-9.9" else None
    )
    xml = XML.replace("pc-q35-9.2", "pc-q35-9.9").replace(
        "</devices>", "<video><model type='qxl'/></video></devices>"
    )

    error = refuse(tmp_path, hypervisor, xml=xml)

    assert "machine type pc-q35-9.9 (QEMU 9.2.0 has types up to pc-q35-8.0)" in error.found
    assert "newer QEMU" in error.hint
    assert "video model qxl (the host has none)" in error.found


def test_word_of_libvirt_on_the_processor_counts(tmp_path: Path) -> None:
    """Where it refuses, its list is told; where it does not, a list of ours is only a warning."""
    refusing, accepting = PaperHypervisor(), PaperHypervisor()
    refusing.verdict = CpuMatch(is_compatible=False, lacking=("avx512f", "amx"), reason="no")
    beyond = COOKIE.replace("sse2", "avx")

    assert "CPU features amx, avx512f" in refuse(tmp_path, refusing).found
    (warning,) = check(tmp_path, accepting, cookie=beyond)
    assert "may lack CPU features avx" in warning


@pytest.mark.parametrize(
    ("policy", "is_refused"), [("check='full'", True), ("check='partial'", True), ("check='none'", False)]
)
def test_unchecked_processor_is_only_warned_of(tmp_path: Path, policy: str, is_refused: bool) -> None:
    """Nor would libvirt look at it."""
    hypervisor = PaperHypervisor()
    hypervisor.verdict = CpuMatch(is_compatible=False, lacking=("amx",), reason="no")
    cookie = COOKIE.replace("check='full'", policy)

    if is_refused:
        refuse(tmp_path, hypervisor, cookie=cookie)
    else:
        assert len(check(tmp_path, hypervisor, cookie=cookie)) == 1


def test_refusal_that_names_no_feature_is_told_in_libvirts_words(tmp_path: Path) -> None:
    """Such as another vendor's processor."""
    hypervisor = PaperHypervisor()
    hypervisor.verdict = CpuMatch(is_compatible=False, reason="CPU vendors do not match")

    assert "CPU qemu64 (CPU vendors do not match)" in refuse(tmp_path, hypervisor).found


def test_feature_that_libvirt_never_reports_is_no_reason(tmp_path: Path) -> None:
    """The host's own processor has it."""
    hypervisor = PaperHypervisor()
    hypervisor.verdict = CpuMatch(is_compatible=False, lacking=("invtsc",), reason="no")

    assert check(tmp_path, hypervisor) == []


def test_processor_that_libvirt_cannot_compare_is_judged_by_its_lists(tmp_path: Path) -> None:
    """As on an architecture that it has no tables of."""
    hypervisor = PaperHypervisor()
    hypervisor.verdict = NotSupportedError("x", "cannot")

    assert check(tmp_path, hypervisor) == []
    assert "CPU features avx" in refuse(tmp_path, hypervisor, cookie=COOKIE.replace("sse2", "avx")).found


def test_hosts_own_processor_is_compared_with_the_manifests(tmp_path: Path) -> None:
    """The same passes, another is refused; without a manifest nobody can tell."""
    passthrough = "<cpu mode='host-passthrough' check='none' migratable='on'/>"
    xml = XML[: XML.index("<cpu")] + passthrough + XML[XML.index("<devices>") :]
    cookie = f"<cookie>{passthrough}</cookie>"
    fitting, other = (
        {
            "requirements": read_requirements(xml, where="x", host_cpu=cpu).to_dict(),
            "hypervisor_version": "9.2.0",
        }
        for cpu in (HOST_CPU, replace(HOST_CPU, vendor="AMD"))
    )

    assert check(tmp_path, xml=xml, cookie=cookie, manifest=fitting) == []
    assert "host CPU" in refuse(tmp_path, xml=xml, cookie=cookie, manifest=other).found
    (tmp_path / "a.save.manifest.json").unlink()
    (warning,) = check(tmp_path, xml=xml, cookie=cookie)
    assert "nobody wrote down" in warning


def test_image_of_a_newer_qemu_is_taken_with_a_word(tmp_path: Path) -> None:
    """The machine type decides."""
    (warning,) = check(tmp_path, manifest={"hypervisor_version": "10.1.0"})

    assert "saved by QEMU 10.1.0, this host has 9.2.0" in warning
    assert "pc-q35-9.2 decides" in warning


def test_dxml_says_where_the_hosts_parts_are(tmp_path: Path) -> None:
    """The emulator of the image is not there; the dxml's is."""
    hypervisor = PaperHypervisor()
    hypervisor.refuses = lambda platform: (
        HypervisorError("x", "Cannot check QEMU binary") if platform.emulator == "/other/kvm" else None
    )
    xml = XML.replace("/opt/qemu/kvm", "/other/kvm")

    assert (
        "emulator /other/kvm (the host offers /opt/qemu/kvm)" in refuse(tmp_path, hypervisor, xml=xml).found
    )
    assert check(tmp_path, hypervisor, XML, xml=xml) == []


def test_firmware_files_count_where_they_are(tmp_path: Path) -> None:
    """Listed by libvirt or not; variables that are missing are made from their template."""
    loader, template = tmp_path / "code.fd", tmp_path / "vars.fd"
    nvram = f"<nvram template='{template}'>{tmp_path}/web-1.fd</nvram>"
    xml = XML.replace("</os>", f"<loader type='pflash'>{loader}</loader>{nvram}</os>")

    error = refuse(tmp_path, xml=xml)
    assert f"firmware {loader} (libvirt knows /usr/share/OVMF/OVMF_CODE_4M.fd)" in error.found
    assert f"firmware variables {tmp_path}/web-1.fd" in error.found
    loader.touch()
    assert "firmware variables" in refuse(tmp_path, xml=xml).found
    template.touch()
    assert check(tmp_path, xml=xml) == []
    template.unlink()
    (tmp_path / "web-1.fd").touch()
    assert check(tmp_path, xml=xml) == []


def test_file_that_cannot_be_looked_at_is_left_to_libvirt(tmp_path: Path) -> None:
    """It may be there for libvirt's user."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)

    assert check(tmp_path, xml=XML.replace("</os>", f"<loader type='pflash'>{loop}</loader></os>")) == []


def test_host_that_cannot_be_looked_at_is_left_to_libvirt(tmp_path: Path) -> None:
    """A warning, unless the connection is gone: then nothing will work."""

    class Silent(PaperHypervisor):
        error: Exception = NotSupportedError("x", "this libvirt is too old")

        def capabilities(self) -> str:
            raise self.error

    (warning,) = check(tmp_path, Silent())
    assert "this libvirt is too old" in warning
    (warning,) = check(tmp_path, cookie="<nonsense/>")
    assert "cookie" in warning
    gone = Silent()
    gone.error = HypervisorUnreachableError("x", "gone")
    with pytest.raises(HypervisorUnreachableError):
        check(tmp_path, gone)


def test_driver_that_does_not_say_is_not_asked(tmp_path: Path) -> None:
    """As libvirt's test driver: it says that it can run nothing."""
    hypervisor = PaperHypervisor()
    hypervisor.driver = "test"

    assert check(tmp_path, hypervisor, xml=XML.replace("kvm'", "test'")) == []
    assert hypervisor.asked == []


def test_simulated_host_takes_its_own_machine_types(tmp_path: Path) -> None:
    """And no others."""
    xml = make_xml("web-1", UUID, 2**20)
    for machines, is_taken in (("sim-1", True), ("sim-2,sim-1", True), ("sim-2", False)):
        hypervisor = SimHypervisor(f"sim://{tmp_path}/{machines}?machines={machines}")
        if is_taken:
            assert check(tmp_path, hypervisor, xml=xml, cookie="") == []
        else:
            assert "machine type sim-1" in refuse(tmp_path, hypervisor, xml=xml, cookie="").found
        hypervisor.close()
