"""The code of this checkout, made available to users that may not be able to read it where it is."""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cli.sandbox.account import Account
from cli.sandbox.errors import SandboxError

#: Root of the checkout.
ROOT: Final = Path(__file__).resolve().parents[2]
#: Where `make setup` puts the guest kernel.
GUEST_CACHE: Final = ROOT / ".cache" / "guest"

_PACKAGES: Final = ("engine", "tasks", "scheduler", "cli")
#: Reads each package where the argument says and loads compiled dependencies; runs no code of the project, so
#: that a mistake in it is not taken for a lack of permissions.
_PROBE: Final = f"""
import importlib.util, pathlib, sys
import libvirt, lxml.etree
for name in {_PACKAGES}:
    origin = pathlib.Path(importlib.util.find_spec(name).origin)
    origin.read_bytes()
    assert origin.parent == pathlib.Path(sys.argv[1], name), f"found {{origin}}"
"""
#: Development tools are of no use to a host, and half of the bytes.
_NOT_STAGED: Final = shutil.ignore_patterns(
    "__pycache__", "hypothesis", "mypy", "mypyc", "pip", "setuptools", "*-stubs", "*.pth"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """How users run the project."""

    #: Interpreter and its options.
    python: list[str]
    #: Folder of the packages, for PYTHONPATH.
    root: Path


def open_project(account: Account, staging: Path) -> Project:
    """Return a way to run the project that works for the account: in place, else from a copy.

    A checkout below a folder that only root may enter is not readable for others; then the packages and what
    they depend on are copied.

    Args:
        account: user to try it with.
        staging: folder for the copy, not there yet; made only if needed.

    Raises:
        SandboxError: the user can run no fitting interpreter.
    """
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    in_place = Project(python=[sys.executable], root=ROOT)
    if not _find_obstacle(account, in_place):
        return in_place
    _stage(staging)
    for python in (sys.executable, os.path.realpath(sys.executable), system):
        project = Project(python=[python], root=staging)
        obstacle = _find_obstacle(account, project)
        if not obstacle:
            return project
    raise SandboxError(
        f"users other than root cannot run the project with {sys.executable} nor with {system}: {obstacle}; "
        f"run `make setup`, which uses the system's Python",
    )


def _find_obstacle(account: Account, project: Project) -> str:
    """Return why the account cannot run the project that way, "" if it can."""
    candidate = replace(account, import_path=project.root)
    try:
        done = candidate.run([*project.python, "-c", _PROBE, project.root], check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)  # The user cannot execute the interpreter at all.
    return f"exit code {done.returncode}: {done.stderr.strip()}" if done.returncode else ""


def _stage(staging: Path) -> None:
    # The packages last: a copy that is installed in site-packages too may be older.
    places = [(Path(sysconfig.get_path("purelib")), staging)]
    places += [(ROOT / package, staging / package) for package in _PACKAGES]
    for source, target in places:
        shutil.copytree(source, target, ignore=_NOT_STAGED, copy_function=_copy_readable, dirs_exist_ok=True)
    for folder, _, _ in os.walk(staging):
        Path(folder).chmod(0o755)


def _copy_readable(source: str, target: str) -> str:
    """Copy one file so that everybody may read it, whatever umask the checkout was made with."""
    shutil.copyfile(source, target)
    Path(target).chmod(0o644)
    return target
