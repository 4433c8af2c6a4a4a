import base64
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import StorageError, TargetExistsError
from tasks.errors import ConfigError
from tasks.keys import (
    PublicKey,
    SigningKey,
    generate_key,
    is_key_id,
    read_public_key,
    read_signing_key,
    write_key,
)

#: RFC 8032, section 7.1, test 2: a key, its public half, and its signature of one byte.
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_signatures_are_those_of_the_standard() -> None:
    """Any other implementation of Ed25519 makes and checks the same."""
    key = SigningKey(key_id="k", seed=SEED)
    assert key.public == PublicKey(key_id="k", raw=PUBLIC)
    assert base64.b64decode(key.sign(b"\x72")) == SIGNATURE
    assert key.public.verifies(b"\x72", base64.b64encode(SIGNATURE).decode())


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_signature_is_of_one_message_only(message: bytes, other: bytes) -> None:
    """And of one key."""
    key = SigningKey(key_id="k", seed=SEED)
    signature = key.sign(message)
    assert key.public.verifies(other, signature) == (other == message)
    assert not generate_key("k").public.verifies(message, signature)


@given(st.none() | st.integers() | st.text() | st.binary().map(lambda raw: base64.b64encode(raw).decode()))
def test_anything_else_is_no_signature(signature: object) -> None:
    """Nothing but False comes out."""
    assert not PublicKey(key_id="k", raw=PUBLIC).verifies(b"\x72", signature)


def test_signature_has_one_spelling() -> None:
    """Base64 leaves bits over at its end that mean nothing: nobody may change them."""
    key = PublicKey(key_id="k", raw=PUBLIC)
    text = base64.b64encode(SIGNATURE).decode()
    assert text.endswith("A==")
    assert base64.b64decode(text.replace("A==", "B==")) == SIGNATURE
    assert not key.verifies(b"\x72", text.replace("A==", "B=="))
    assert not key.verifies(b"\x72", text + "\n")


@pytest.mark.parametrize("umask", [0, 0o077])
def test_written_key_is_read_back(tmp_path: Path, umask: int) -> None:
    """Only its owner may read the private half, and anybody the public one, whatever the umask."""
    key = generate_key("control-2026")
    before = os.umask(umask)
    try:
        private, public = write_key(key, tmp_path)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(file.stat().st_mode) for file in (private, public)] == [0o600, 0o644]
    assert (private.name, public.name) == ("control-2026.key", "control-2026.pub")
    assert read_signing_key(private) == key
    assert read_public_key(public) == read_public_key(private) == key.public
    assert base64.b64encode(key.seed).decode() not in public.read_text()
    assert key.seed.hex() not in repr(key)
    assert repr(key.seed) not in repr(key)


@pytest.mark.parametrize("suffix", [".key", ".pub"])
def test_key_that_is_there_is_not_written_over(tmp_path: Path, suffix: str) -> None:
    """Either half is reason enough, and the other is not made."""
    there = tmp_path / f"k{suffix}"
    there.write_text("precious")
    with pytest.raises(TargetExistsError):
        write_key(generate_key("k"), tmp_path)
    assert there.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [there]


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """As every storage error."""
    with pytest.raises(StorageError, match="none"):
        write_key(generate_key("k"), tmp_path / "none")


def test_private_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """Whoever read it can give jobs; the line says what to do."""
    private, _ = write_key(generate_key("k"), tmp_path)
    private.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_signing_key(private)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "ed25519 AAAA k",
        "ed25519-private AAAA k",
        f"rsa {'A' * 43}= k",
        f"ed25519 {'A' * 43}= a/b",
        "\x00" * 9,
    ],
)
def test_file_that_holds_no_key_is_named(tmp_path: Path, text: str) -> None:
    """Whichever half was wanted."""
    file = tmp_path / "x"
    file.write_text(text)
    file.chmod(0o600)
    for read in (read_signing_key, read_public_key):
        with pytest.raises(ConfigError, match="does not hold"):
            read(file)


def test_public_key_does_not_sign(tmp_path: Path) -> None:
    """Its file is not taken for the other."""
    _, public = write_key(generate_key("k"), tmp_path)
    public.chmod(0o600)
    with pytest.raises(ConfigError, match="a private key"):
        read_signing_key(public)


def test_ids_of_keys_are_plain() -> None:
    """They are file names and words of settings."""
    assert is_key_id("control-2026.a_b")
    assert not any(map(is_key_id, ("", "a/b", ".", "-a", "a b", "x" * 65, "a\n", None, 1)))
    with pytest.raises(ValueError, match="key id"):
        generate_key("../x")
