from pathlib import Path

import pytest

from tasks.errors import ConfigError, RefusedJobError
from tasks.keyring import Keyring
from tasks.keys import PublicKey, generate_key, write_key

OLD, NEW = generate_key("2025"), generate_key("2026")


def refused(keyring: Keyring, document: bytes, key_id: object, signature: object) -> RefusedJobError:
    """Return why the document is refused."""
    with pytest.raises(RefusedJobError) as caught:
        keyring.check(document, key_id, signature)
    assert caught.value.reason == "bad_signature"
    return caught.value


def test_keys_of_settings_and_directory_are_trusted_together(tmp_path: Path) -> None:
    """Several at once, while keys are exchanged; private halves in the directory are passed over."""
    write_key(NEW, tmp_path)
    keyring = Keyring({"2025": OLD.public.text}, tmp_path)
    assert keyring.list_keys() == {"2025": OLD.public, "2026": NEW.public}
    for key in (OLD, NEW):
        keyring.check(b"job", key.key_id, key.sign(b"job"))


def test_key_counts_from_when_it_is_put_there_until_it_is_taken_away(tmp_path: Path) -> None:
    """No restart in between."""
    keyring = Keyring({}, tmp_path)
    assert "unknown key" in str(refused(keyring, b"job", "2026", NEW.sign(b"job")))
    _, public = write_key(NEW, tmp_path)
    keyring.check(b"job", "2026", NEW.sign(b"job"))
    public.unlink()
    assert "unknown key" in str(refused(keyring, b"job", "2026", NEW.sign(b"job")))


def test_what_no_trusted_key_signed_is_refused() -> None:
    """Unsigned, signed by another, another message, another key's name."""
    keyring = Keyring({"2025": OLD.public.text})
    good = OLD.sign(b"job")
    refused(keyring, b"job", "2025", None)
    refused(keyring, b"job", None, good)
    refused(keyring, b"job", "2025", NEW.sign(b"job"))
    refused(keyring, b"other", "2025", good)
    refused(keyring, b"job", "2026", good)
    refused(keyring, b"job", ["2025"], good)
    refused(keyring, b"job", "2025", [good])


def test_one_id_names_one_key(tmp_path: Path) -> None:
    """Else nobody could tell which of them signed."""
    write_key(generate_key("2025"), tmp_path)
    with pytest.raises(ConfigError, match="another key"):
        Keyring({"2025": OLD.public.text}, tmp_path)


def test_keys_that_cannot_be_read_are_not_guessed(tmp_path: Path) -> None:
    """At start it is an error; later every job is refused."""
    _, public = write_key(NEW, tmp_path)
    keyring = Keyring({}, tmp_path)
    public.write_text("broken")
    refused(keyring, b"job", "2026", NEW.sign(b"job"))
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError):
            Keyring({}, folder)


def test_key_in_settings_is_32_bytes_of_base64() -> None:
    """A key cut short is no key."""
    with pytest.raises(ValueError, match="32 bytes"):
        PublicKey.parse("k", OLD.public.text[:-4])
