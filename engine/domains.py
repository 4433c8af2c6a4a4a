"""Tell a fleet which domains a hypervisor has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from engine.domxml.document import parse_domain_xml
from engine.hypervisor.connect import connect

#: Namespace of the tags that a domain's metadata may carry.
TAGS_NAMESPACE: Final = "urn:fleetsave:1"


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSummary:
    """What a fleet needs to know of a domain."""

    name: str
    uuid: str
    #: libvirt's word: "running", "paused", "shut off", ...
    state: str
    #: Most memory the guest can have, bytes.
    memory_bytes: int
    persistent: bool
    has_managed_save: bool
    tags: tuple[str, ...]


def list_domains(uri: str) -> list[DomainSummary]:
    """Return every domain of a hypervisor, sorted by name, with its tags.

    Raises:
        HypervisorUnreachableError: nobody answers at the URI.
    """
    hypervisor = connect(uri)
    try:
        return [
            DomainSummary(
                name=domain.name,
                uuid=domain.uuid,
                state=domain.state,
                memory_bytes=domain.memory_bytes,
                persistent=domain.is_persistent,
                has_managed_save=domain.has_managed_save,
                tags=_tags(hypervisor.domain_xml(domain.uuid)),
            )
            for domain in hypervisor.list_domains()
        ]
    finally:
        hypervisor.close()


def _tags(xml: str) -> tuple[str, ...]:
    """Return the words of the domain's <fleetsave:tags> metadata."""
    root = parse_domain_xml(xml, where="domain XML")
    found = root.findtext(f"metadata/{{{TAGS_NAMESPACE}}}tags") or ""
    return tuple(word for word in re.split(r"[\s,]+", found) if word)
