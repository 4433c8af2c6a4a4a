from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.access import OperatorSettings, RoleSettings
from tasks.control import Target, check_permission, choose_domains
from tasks.errors import RefusedJobError
from tasks.keys import generate_key
from tasks.locate import DomainRef
from tasks.submission import Submission

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = generate_key("alice")
DOMAINS = [
    Target(host="alpha", name="web-1", uuid="u1", tags=("prod",)),
    Target(host="alpha", name="web-2", uuid="u2"),
    Target(host="alpha", name="both", uuid="u3"),
    Target(host="beta", name="both", uuid="u4"),
    Target(host="beta", name="db-1", uuid="u5", tags=("prod",)),
]
ROLES = {
    "web": RoleSettings(operations=("save", "restore"), domains=("web-*",)),
    "prod": RoleSettings(operations=("checkpoint",), domains=("@tag:prod", "!db-*")),
    "all": RoleSettings(operations=("restore",), domains=("@all",)),
}


def submission(*select: str | DomainRef, op: str = "save", **params: Any) -> Submission:
    """Return what an operator asks for."""
    return Submission(
        run_id="r1", op=op, select=select, params=params, issued_at=NOW,
        expires_at=NOW + timedelta(hours=1), nonce="0" * 32, key_id="alice",
    )  # fmt: skip


def chosen(*select: str | DomainRef, op: str = "save") -> list[tuple[str | None, str | None]]:
    """Return the domains that are meant."""
    return [(one.ref.domain, one.ref.host) for one in choose_domains(submission(*select, op=op), DOMAINS)]


def forbidden(roles: tuple[str, ...], op: str, *targets: Target) -> bool:
    """Tell whether an operator with these roles is refused."""
    operator = OperatorSettings(key=KEY.public.text, roles=roles)
    try:
        check_permission(submission(op=op), operator, ROLES, targets)
    except RefusedJobError as error:
        assert error.reason == "forbidden"  # noqa: PT017
        return True
    return False


@pytest.mark.parametrize(
    ("select", "wanted"),
    [
        (["web-1"], [("web-1", "alpha")]),
        (["U1"], [("U1", "alpha")]),
        (["nobody"], [("nobody", None)]),
        (["both"], [("both", None)]),
        (["both", "!@host:beta"], [("both", "alpha")]),
        (["both", "!both", "web-1"], [("web-1", "alpha")]),
        (["web-*"], [("web-1", "alpha"), ("web-2", "alpha")]),
        (["web-2", "web-*"], [("web-2", "alpha"), ("web-1", "alpha")]),
        (["u2", "web-*"], [("u2", "alpha"), ("web-1", "alpha")]),
        (["web-1", "web-1"], [("web-1", "alpha")]),
        (["both*"], [("both", "alpha"), ("both", "beta")]),
        (["@tag:prod"], [("db-1", "beta"), ("web-1", "alpha")]),
        (["@host:beta", "!db-*"], [("both", "beta")]),
        ([DomainRef("both", "beta"), "web-1"], [("both", "beta"), ("web-1", "alpha")]),
        ([DomainRef("new", "alpha")], [("new", "alpha")]),
    ],
)
def test_selector_means_these_domains(
    select: list[str | DomainRef], wanted: list[tuple[str | None, str | None]]
) -> None:
    """Each once; a name that is not clear is for the catalog to ask back about."""
    assert chosen(*select) == wanted


@pytest.mark.parametrize("select", [["nothing-*"], [], ["!web-1"], ["web-1", "!web-*"]])
def test_selector_that_fits_nothing_is_refused(select: list[str]) -> None:
    """Somebody expected a job."""
    with pytest.raises(RefusedJobError, match="no domain fits"):
        chosen(*select)


def test_restore_is_of_one_image() -> None:
    """On a host, or wherever the catalog knows it to be."""
    assert chosen(op="restore") == [(None, None)]
    assert chosen(DomainRef(None, "alpha"), op="restore") == [(None, "alpha")]
    for select in (["web-1"], ["@all"], [DomainRef(None, "alpha"), DomainRef(None, "beta")]):
        with pytest.raises(RefusedJobError):
            chosen(*select, op="restore")


def test_one_role_has_to_allow_operation_and_domain() -> None:
    """Not one role this, and another that."""
    web, db = DOMAINS[0], DOMAINS[4]
    assert not forbidden(("web",), "save", web, DOMAINS[1])
    assert forbidden(("web",), "save", db)
    assert forbidden(("web",), "save", web, db)
    assert forbidden(("web",), "checkpoint", web)
    assert not forbidden(("web", "prod"), "checkpoint", web)
    assert forbidden(("web", "prod"), "checkpoint", db)
    assert forbidden(("prod", "all"), "save", web)
    assert forbidden((), "save", web)


def test_image_of_an_unknown_domain_needs_a_role_for_all() -> None:
    """Nobody knows whose memory it is."""
    unknown = Target(host="alpha", name="")
    assert forbidden(("web",), "restore", unknown)
    assert not forbidden(("all",), "restore", unknown)
