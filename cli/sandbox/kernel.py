"""The Linux kernel that test guests boot: Debian's cloud kernel, unpacked by `make setup`, not installed."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cli.sandbox.errors import SandboxError


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestKernel:
    """One unpacked kernel with its loadable modules."""

    #: The compressed kernel that QEMU loads.
    image: Path
    #: `lib/modules/<release>`, with the modules.dep that depmod(8) made.
    modules: Path

    def resolve_modules(self, names: Iterable[str]) -> list[Path]:
        """Return the files of these modules and of all they need, in the order insmod(8) has to load them.

        Raises:
            SandboxError: the kernel has no such module.
        """
        needs: dict[str, list[str]] = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            file, _, rest = line.partition(":")
            needs[file] = rest.split()
        by_name = {Path(file).name.partition(".")[0].replace("-", "_"): file for file in needs}
        ordered: dict[str, None] = {}
        for name in names:
            if name not in by_name:
                raise SandboxError(f"the guest kernel in {self.modules} has no module {name}")
            # modules.dep lists what a module needs from the nearest to the farthest.
            for file in (*reversed(needs[by_name[name]]), by_name[name]):
                ordered.setdefault(file)
        return [self.modules / file for file in ordered]


def find_kernel(cache: Path) -> GuestKernel:
    """Return the kernel that `make setup` unpacked.

    Args:
        cache: folder with `vmlinuz` and `lib/modules/<release>`.

    Raises:
        SandboxError: it is not there.
    """
    releases = sorted((cache / "lib" / "modules").glob("*/modules.dep"))
    image = cache / "vmlinuz"
    if not releases or not image.is_file():
        raise SandboxError(f"no guest kernel in {cache}: run `make setup`")
    return GuestKernel(image=image, modules=releases[-1].parent)
