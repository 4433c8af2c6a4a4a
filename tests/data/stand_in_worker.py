"""Run a real worker whose engine is the stand-in beside this file; settings come from the environment."""

import sys
from pathlib import Path

from engine.domains import DomainSummary
from engine.domxml.capabilities import HostCpu
from engine.domxml.offer import HostCapabilities
from tasks.config import load_settings
from tasks.worker import run_worker

_ENGINE = Path(__file__).with_name("stand_in_engine.py")


def list_domains(uri: str) -> list[DomainSummary]:
    """Return two domains, whatever the URI."""
    del uri
    return [
        DomainSummary(
            name=name,
            uuid=f"00000000-0000-0000-0000-00000000000{number}",
            state="running",
            memory_bytes=1024**3,
            persistent=True,
            has_managed_save=False,
            tags=("prod",),
        )
        for number, name in enumerate(("web-1", "wait-1"), start=1)
    ]


def describe_host(uri: str) -> HostCapabilities:
    """Return what a small host could run, whatever the URI."""
    del uri
    return HostCapabilities(
        libvirt_version="11.3.0", hypervisor_version="10.0.0", cpu=HostCpu(architecture="x86_64")
    )


if __name__ == "__main__":
    sys.exit(
        run_worker(
            load_settings(),
            engine_command=(sys.executable, str(_ENGINE)),
            list_domains=list_domains,
            describe_host=describe_host,
        )
    )
