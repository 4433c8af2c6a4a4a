import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.envelope import (
    ENVELOPE_SIZE_MAX,
    Envelope,
    check_job,
    format_time,
    new_nonce,
    open_envelope,
    parse_envelope,
)
from tasks.errors import RefusedJobError
from tasks.keyring import Keyring
from tasks.keys import SigningKey

KEY = SigningKey(key_id="k1", seed=bytes(range(32)))
NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
MOMENTS = st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9000, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=UTC)
)


def envelope(**changes: Any) -> Envelope:
    """Return a save for host alpha that is good for an hour."""
    values: dict[str, Any] = {
        "job_id": "0123-abc",
        "attempt": 1,
        "op": "save",
        "host": "alpha",
        "domain": "web-1",
        "params": {"to": "/srv/a.save", "paused": True},
        "issued_at": NOW,
        "expires_at": NOW + timedelta(hours=1),
        "nonce": "0" * 32,
    }
    return Envelope(**(values | changes))


def document(**changes: Any) -> dict[str, Any]:
    """Return the same as JSON, with other values."""
    fields: dict[str, Any] = json.loads(envelope().to_bytes())
    return fields | changes


def refused(parsed: bytes | dict[str, Any]) -> RefusedJobError:
    """Return why the document is refused."""
    with pytest.raises(RefusedJobError) as caught:
        parse_envelope(parsed, host="alpha", now=NOW)
    return caught.value


NAMES = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="/"),
    min_size=1,
    max_size=255,
).filter(lambda name: name not in {".", ".."})
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)


@given(domain=NAMES, dxml=st.text(st.characters(exclude_categories=["Cs"])), issued_at=MOMENTS)
def test_what_is_packed_is_what_is_unpacked(domain: str, dxml: str, issued_at: datetime) -> None:
    """Bytes and object say the same; packing again gives the same bytes."""
    packed = envelope(
        domain=domain, params={"dxml": dxml}, issued_at=issued_at, expires_at=issued_at + timedelta(seconds=1)
    )
    assert parse_envelope(packed.to_bytes(), host="alpha", now=issued_at) == packed
    assert (
        parse_envelope(json.loads(packed.to_bytes()), host="alpha", now=issued_at).to_bytes()
        == packed.to_bytes()
    )


def test_canonical_bytes_never_change() -> None:
    """A signature covers exactly these bytes."""
    assert envelope().to_bytes() == (
        b'{"attempt":1,"domain":"web-1","expires_at":"2026-03-29T02:30:00.000Z","host":"alpha",'
        b'"issued_at":"2026-03-29T01:30:00.000Z","job_id":"0123-abc","key_id":null,'
        b'"nonce":"00000000000000000000000000000000","op":"save",'
        b'"params":{"paused":true,"to":"/srv/a.save"},"v":1}'
    )


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_as_malformed(data: bytes) -> None:
    """Nothing but RefusedJobError comes out."""
    assert refused(data).reason == "malformed"


@given(st.sampled_from(sorted(document())), JSON | st.dictionaries(st.text(), st.none()))
def test_a_field_of_another_kind_is_refused_or_means_the_same(key: str, value: Any) -> None:
    """Whatever stands in a field, the outcome is an envelope or a reason."""
    try:
        found = parse_envelope(document(**{key: value}), host="alpha", now=NOW)
    except RefusedJobError as error:
        assert error.reason in {"malformed", "wrong_host", "expired"}  # noqa: PT017
    else:
        assert json.loads(found.to_bytes()) == document(**{key: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"v": True},
        {"job_id": "../x"},
        {"job_id": "a" * 65},
        {"job_id": "a\n"},
        {"attempt": 0},
        {"attempt": True},
        {"attempt": 1.0},
        {"op": "wipe"},
        {"host": ""},
        {"host": "a/b"},
        {"domain": None},
        {"domain": "a/b"},
        {"domain": "a\nb"},
        {"domain": "a\x9bb"},
        {"domain": ".."},
        {"domain": "x" * 256},
        {"params": []},
        {"params": {"uri": "qemu+ssh://evil/system"}},
        {"params": {"store": "/etc"}},
        {"params": {"allowed_roots": ["/"]}},
        {"params": {"to": "relative"}},
        {"params": {"to": "/srv/../etc/passwd"}},
        {"params": {"to": "/srv/a\x00b"}},
        {"params": {"dxml": "\ud800"}},
        {"params": {"running": 1}},
        {"params": {"running": True, "paused": True}},
        {"params": {"bypass_cache": "maybe"}},
        {"op": "restore", "params": {"path": "/a"}},
        {"op": "restore", "domain": None, "params": {}},
        {"op": "start", "params": {"to": "/srv/a"}},
        {"issued_at": "2026-02-30T00:00:00.000Z"},
        {"expires_at": "2026-03-29 02:30:00.000"},
        {"expires_at": "2026-03-29T01:30:00.000Z"},
        {"nonce": "x"},
        {"key_id": "k/1"},
        {"more": 1},
    ],
)
def test_fields_that_mean_harm_or_nothing_are_malformed(changes: dict[str, Any]) -> None:
    """Each alone is enough."""
    assert refused(document(**changes)).reason == "malformed"


def test_envelope_for_another_host_is_not_ours() -> None:
    """Before its age is looked at."""
    assert refused(document(host="beta", expires_at="2026-03-29T01:30:01.000Z")).reason == "wrong_host"


def test_envelope_expires_at_its_last_second() -> None:
    """One second before it is good."""
    packed = envelope().to_bytes()
    assert parse_envelope(packed, host="alpha", now=NOW + timedelta(seconds=3599))
    with pytest.raises(RefusedJobError) as caught:
        parse_envelope(packed, host="alpha", now=NOW + timedelta(seconds=3600))
    assert caught.value.reason == "expired"


def test_oversize_is_refused_before_it_is_parsed() -> None:
    """One byte over the limit."""
    assert "at most" in str(refused(b" " * (ENVELOPE_SIZE_MAX + 1)))


def test_key_given_twice_is_refused() -> None:
    """A signature would cover both readings."""
    text = envelope().to_bytes().replace(b'{"attempt":1', b'{"attempt":2,"attempt":1')
    assert refused(text).reason == "malformed"


def test_deep_nesting_is_refused() -> None:
    """The parser's stack is not the sender's to fill."""
    assert refused(b"[" * 100_000).reason == "malformed"


def test_restore_takes_its_domain_from_the_image() -> None:
    """No domain, but a path."""
    check_job("restore", None, {"path": "/srv/a.save", "reset_nvram": True})


def test_nonces_differ() -> None:
    """Two envelopes of one job are two."""
    assert new_nonce() != new_nonce()


def test_times_are_written_in_utc() -> None:
    """Another zone is the same moment."""
    assert format_time(datetime.fromisoformat("2026-03-29T03:30:00+02:00")) == "2026-03-29T01:30:00.000Z"


def opened(document: bytes, signature: object, *, host: str = "alpha") -> Envelope:
    """Return the job of a document, as a host that trusts the key takes it."""
    keyring = Keyring({KEY.key_id: KEY.public.text})
    return open_envelope(document, signature, check=keyring.check, host=host, now=NOW)


def test_golden_signature_never_changes() -> None:
    """Fixed key, fixed envelope: other implementations can be held to these very bytes."""
    signed = envelope(key_id="k1").to_bytes()
    assert signed == (
        b'{"attempt":1,"domain":"web-1","expires_at":"2026-03-29T02:30:00.000Z","host":"alpha",'
        b'"issued_at":"2026-03-29T01:30:00.000Z","job_id":"0123-abc","key_id":"k1",'
        b'"nonce":"00000000000000000000000000000000","op":"save",'
        b'"params":{"paused":true,"to":"/srv/a.save"},"v":1}'
    )
    assert KEY.public.text == "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
    signature = "6nrwAVDq0GCh5WShUWi+Q3Ysj7tCvQR236o3hlvbgZsEj+BAX1j6B+jcXdqbsWjWcnnCco/g+p373Tr2Tt8uDQ=="
    assert KEY.sign(signed) == signature
    assert opened(signed, signature) == envelope(key_id="k1")


@given(st.sampled_from(sorted(document())), JSON)
def test_signed_envelope_cannot_be_changed(key: str, value: Any) -> None:
    """In no field, to no value; order and spaces count, too."""
    good = envelope(key_id="k1").to_bytes()
    changed = json.dumps(json.loads(good) | {key: value}).encode()
    with pytest.raises(RefusedJobError) as caught:
        opened(changed, KEY.sign(good))
    assert caught.value.reason == "bad_signature"


def test_signature_is_looked_at_before_anything_else_is() -> None:
    """Host, time and fields of a stranger's envelope are not even judged."""
    for bad in (envelope(key_id="k1", host="beta"), envelope(expires_at=NOW), envelope(op="wipe")):
        with pytest.raises(RefusedJobError) as caught:
            opened(bad.to_bytes(), None)
        assert caught.value.reason == "bad_signature"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"v": 2}, "malformed"),
        ({"domain": "a/b"}, "malformed"),
        ({"host": "beta"}, "wrong_host"),
        ({"expires_at": "2026-03-29T01:30:00.001Z", "issued_at": "2026-03-29T01:29:00.000Z"}, None),
        ({"expires_at": "2026-03-29T01:30:00.000Z", "issued_at": "2026-03-29T01:29:00.000Z"}, "expired"),
        ({"issued_at": "2026-03-29T01:35:00.001Z"}, "expired"),
        ({"expires_at": "2026-04-29T01:30:00.000Z"}, "malformed"),
    ],
)
def test_signed_envelope_is_judged_all_the_same(changes: dict[str, Any], reason: str | None) -> None:
    """Who signs may be mistaken."""
    signed = json.dumps(document(key_id="k1", **changes)).encode()
    try:
        opened(signed, KEY.sign(signed))
    except RefusedJobError as error:
        assert error.reason == reason  # noqa: PT017
    else:
        assert reason is None
