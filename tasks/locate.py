"""Find the host that has a domain or an image, from what the hosts last reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from engine.errors import NoDomainError
from tasks.catalog import models
from tasks.errors import UsageError


@dataclass(frozen=True, slots=True)
class DomainRef:
    """A domain as somebody names it."""

    #: Name or UUID; None for a restore, which takes the domain from the image.
    domain: str | None
    #: None: whichever host has it.
    host: str | None = None


def locate_domain(session: Session, ref: DomainRef) -> tuple[str, str | None, str | None]:
    """Return host, name and UUID of the domain, from what the hosts last reported."""
    assert ref.domain is not None
    found = session.scalars(
        select(models.Domain).where(
            (models.Domain.name == ref.domain) | (models.Domain.uuid == ref.domain.lower())
        )
    ).all()
    if ref.host is not None:
        _check_host(session, ref.host)
        here = [domain for domain in found if domain.host == ref.host]
        # A domain defined a moment ago is not in the inventory yet; the host itself knows best.
        return (ref.host, here[0].name, here[0].uuid) if here else (ref.host, ref.domain, None)
    if not found:
        raise NoDomainError(
            f"domain {ref.domain}", "no host has reported it", hint="name the host with --host"
        )
    if len(found) > 1:
        hosts = ", ".join(sorted(domain.host for domain in found))
        raise UsageError(f"domain {ref.domain}", f"it is on {hosts}", "one host", "choose with --host")
    return found[0].host, found[0].name, found[0].uuid


def locate_image(
    session: Session, ref: DomainRef, params: Mapping[str, Any]
) -> tuple[str, str | None, str | None]:
    """Return host, domain name and UUID of an image, from the restore points in the catalog."""
    query = select(models.RestorePoint).where(models.RestorePoint.path == params["path"])
    found = session.scalars(
        query if ref.host is None else query.where(models.RestorePoint.host == ref.host)
    ).all()
    if ref.host is not None:
        _check_host(session, ref.host)
    elif not found:
        raise UsageError(
            str(params["path"]),
            "no host has reported this image",
            "a host",
            "name it with --host; fleetsave points list shows what was reported",
        )
    elif len(found) > 1:
        hosts = ", ".join(sorted(point.host for point in found))
        raise UsageError(str(params["path"]), f"it is on {hosts}", "one host", "choose with --host")
    if not found:
        assert ref.host is not None
        return ref.host, None, None
    return found[0].host, found[0].domain_name, found[0].domain_uuid


def _check_host(session: Session, host: str) -> None:
    """Refuse a host that never reported: nobody would ever hear the doorbell."""
    if session.get(models.Host, host) is None:
        known = (
            ", ".join(session.scalars(select(models.Host.name).order_by(models.Host.name).limit(20)))
            or "none"
        )
        raise UsageError(f"host {host}", "it has never reported", f"one of the known hosts: {known}")
