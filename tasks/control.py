"""Decide what an operator's submission comes to: which domains it means, and whether its key may.

Everything here is pure: values in, values or a refusal out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tasks.access import OperatorSettings, RoleSettings
from tasks.errors import RefusedJobError
from tasks.locate import DomainRef
from tasks.selector import ALL, Candidate, is_pattern, matches
from tasks.submission import Submission

#: Jobs that one submission may come to.
JOBS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One domain that a submission means."""

    ref: DomainRef
    #: Whether it was named; a pattern only happened to fit otherwise.
    is_named: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a job would work on, as far as the catalog knows it."""

    host: str
    name: str
    uuid: str = ""
    tags: tuple[str, ...] = ()


def choose_domains(submission: Submission, domains: Iterable[Candidate]) -> list[Choice]:
    """Return the domains that a submission means: those that are named first, then those that fit, by name.

    Raises:
        RefusedJobError: reason malformed: patterns for a restore; nothing fits.
    """
    words = [one for one in submission.select if isinstance(one, str)]
    refs = [one for one in submission.select if isinstance(one, DomainRef)]
    if submission.op == "restore":
        if words or len(refs) > 1:
            raise RefusedJobError("select", "more than a host", "a host or nothing: the image says the rest")
        return [Choice(ref=refs[0] if refs else DomainRef(None), is_named=True)]
    known = list(domains)
    excluded = [word for word in words if word.startswith("!")]
    named = dict.fromkeys(word for word in words if not word.startswith("!") and not is_pattern(word))
    patterns = [word for word in words if not word.startswith("!") and is_pattern(word)]
    refs += _find_named(named, excluded, known)
    taken = {(ref.domain or "").lower() for ref in refs}
    fitting = [one for one in known if matches([*patterns, *excluded], one)]
    choices = [Choice(ref=ref, is_named=True) for ref in refs]
    choices += [
        Choice(ref=DomainRef(one.name, one.host), is_named=False)
        for one in sorted(fitting, key=lambda one: (one.name, one.host))
        if not taken & {one.name.lower(), one.uuid}
    ]
    if not choices:
        raise RefusedJobError("select", "no domain fits", "a selector that fits one")
    if len(choices) > JOBS_MAX:
        raise RefusedJobError("select", f"{len(choices)} domains fit", f"at most {JOBS_MAX}")
    return choices


def check_permission(
    submission: Submission,
    operator: OperatorSettings,
    roles: Mapping[str, RoleSettings],
    targets: Iterable[Target],
) -> None:
    """Refuse what none of the operator's roles allows: the operation, on each of the domains.

    Raises:
        RefusedJobError: reason forbidden; nothing of the submission may be done.
    """
    allowing = [roles[name] for name in operator.roles if submission.op in roles[name].operations]
    if not allowing:
        raise _forbidden(submission, submission.op)
    for target in targets:
        if not any(matches(role.domains, target) for role in allowing):
            raise _forbidden(submission, f"{submission.op} of {target.name or 'an unknown image'}")


def _find_named(words: Iterable[str], excluded: Sequence[str], known: Sequence[Candidate]) -> list[DomainRef]:
    """Return the domains with these names or UUIDs; what is known nowhere is for the catalog to refuse."""
    by_name: dict[str, list[Candidate]] = {}
    for one in known:
        for key in {one.name, one.uuid}:
            by_name.setdefault(key, []).append(one)
    refs = []
    for word in words:
        found = by_name.get(word) or by_name.get(word.lower(), [])
        left = [one for one in found if matches([ALL, *excluded], one)]
        if left or not found:
            refs.append(DomainRef(word, left[0].host if len(left) == 1 else None))
    return refs


def _forbidden(submission: Submission, what: str) -> RefusedJobError:
    return RefusedJobError(
        f"key {submission.key_id}", f"may not do: {what}", "a role that allows it",
        "see [roles] and [operators] on the control host", reason="forbidden",
    )  # fmt: skip
