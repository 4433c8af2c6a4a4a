"""Make, keep and use Ed25519 keys: who gives jobs signs them, who takes jobs knows whose they are.

A key file is one line: kind, key in base64, id. The line of a public key may be shown to anybody.

Source: RFC 8032.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from engine.errors import StorageError, TargetExistsError
from tasks.errors import ConfigError

PRIVATE_SUFFIX: Final = ".key"
PUBLIC_SUFFIX: Final = ".pub"
#: Bytes of a key, private or public, before base64.
KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64  # bytes

_PRIVATE_KIND: Final = "ed25519-private"
_PUBLIC_KIND: Final = "ed25519"
#: Bytes; a line of ours is a third of it.
_FILE_SIZE_MAX: Final = 1024
_KEY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Permission bits of anybody but the owner.
_OTHERS: Final = 0o077


def is_key_id(value: object) -> bool:
    """Tell whether the value can name a key."""
    return isinstance(value, str) and _KEY_ID.fullmatch(value) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """What a signature is checked with."""

    key_id: str
    #: 32 bytes.
    raw: bytes

    def __post_init__(self) -> None:
        """Refuse what cannot be a key."""
        _check(self.key_id, self.raw)

    @property
    def text(self) -> str:
        """The key in base64, as settings hold it."""
        return base64.b64encode(self.raw).decode()

    def to_line(self) -> str:
        """Return the content of a public key file."""
        return f"{_PUBLIC_KIND} {self.text} {self.key_id}\n"

    def verifies(self, message: bytes, signature: object) -> bool:
        """Tell whether the base64 text is this key's signature of the message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            raw = _decode(signature, SIGNATURE_SIZE)
            Ed25519PublicKey.from_public_bytes(self.raw).verify(raw, message)
        except (ValueError, InvalidSignature):
            return False
        return True

    @classmethod
    def parse(cls, key_id: str, text: object) -> Self:
        """Return the key that settings hold as base64.

        Raises:
            ValueError: it is none; the sentence says what it should be.
        """
        return cls(key_id=key_id, raw=_decode(text, KEY_SIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """What signs; whoever has it can give jobs."""

    key_id: str
    #: 32 bytes, secret.
    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be a key."""
        _check(self.key_id, self.seed)

    def sign(self, message: bytes) -> str:
        """Return the signature of the message in base64."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return base64.b64encode(Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)).decode()

    @property
    def public(self) -> PublicKey:
        """What its signatures are checked with."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        raw = Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()
        return PublicKey(key_id=self.key_id, raw=raw)


def generate_key(key_id: str) -> SigningKey:
    """Return a new key that nobody can guess."""
    return SigningKey(key_id=key_id, seed=secrets.token_bytes(KEY_SIZE))


def write_key(key: SigningKey, folder: Path) -> tuple[Path, Path]:
    """Write both halves of the key into the directory; return the private file (0600) and the public one.

    Raises:
        TargetExistsError: one of the files is there; nothing was written over.
        StorageError: the directory cannot be written.
    """
    private, public = folder / (key.key_id + PRIVATE_SUFFIX), folder / (key.key_id + PUBLIC_SUFFIX)
    if os.path.lexists(public):
        raise _exists(public)
    secret = f"{_PRIVATE_KIND} {base64.b64encode(key.seed).decode()} {key.key_id}\n"
    _write_new(private, secret, 0o600)
    _write_new(public, key.public.to_line(), 0o644)
    return private, public


def read_signing_key(file: Path) -> SigningKey:
    """Return the key in a private key file.

    Raises:
        ConfigError: it cannot be read, others may read it, or it holds no private key.
    """
    kind, text, key_id = _read_line(file, is_secret=True)
    if kind != _PRIVATE_KIND:
        raise _no_key(file, "a private key")
    try:
        return SigningKey(key_id=key_id, seed=_decode(text, KEY_SIZE))
    except ValueError as error:
        raise _no_key(file, "a private key") from error


def read_public_key(file: Path) -> PublicKey:
    """Return the public half of the key in a file of either kind.

    Raises:
        ConfigError: it cannot be read, or holds no key.
    """
    kind, text, key_id = _read_line(file, is_secret=False)
    try:
        if kind == _PUBLIC_KIND:
            return PublicKey.parse(key_id, text)
        if kind == _PRIVATE_KIND:
            return SigningKey(key_id=key_id, seed=_decode(text, KEY_SIZE)).public
    except ValueError as error:
        raise _no_key(file, "a key") from error
    raise _no_key(file, "a key")


def _check(key_id: str, raw: bytes) -> None:
    if not is_key_id(key_id):
        message = f"key id {key_id!r} should be up to 64 letters, digits, dots, dashes and underscores"
        raise ValueError(message)
    if len(raw) != KEY_SIZE:
        message = f"a key has {KEY_SIZE} bytes, not {len(raw)}"
        raise ValueError(message)


def _decode(text: object, size: int) -> bytes:
    """Return the bytes that the base64 text stands for; one text for each value, no other is taken."""
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != size or base64.b64encode(raw).decode() != text:
        message = f"should be {size} bytes in base64"
        raise ValueError(message)
    return raw


def _read_line(file: Path, *, is_secret: bool) -> list[str]:
    """Return the three words of a key file."""
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            data = opened.read(_FILE_SIZE_MAX)
    except OSError as error:
        raise ConfigError(
            f"key file {file}", error.strerror or str(error), "a readable file", "fleetsave keys generate"
        ) from error
    if is_secret and mode & _OTHERS:
        raise ConfigError(f"key file {file}", f"mode {mode:04o}, open to others", "0600", f"chmod 600 {file}")
    words = data.decode(errors="replace").split()
    if len(words) != 3:  # noqa: PLR2004 - kind, key, id
        raise _no_key(file, "a key")
    return words


def _write_new(file: Path, text: str, mode: int) -> None:
    """Write a file that is not there, with this mode from its first byte on; make it durable."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise _exists(file) from error
    except OSError as error:
        raise StorageError(
            str(file), error.strerror or str(error), "a directory this user may write"
        ) from error
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        os.fchmod(descriptor, mode)
        opened.write(text)
        opened.flush()
        os.fsync(descriptor)


def _exists(file: Path) -> TargetExistsError:
    return TargetExistsError(
        str(file), "it is there", "a name that is free", "choose another --name: keys are never overwritten"
    )


def _no_key(file: Path, wanted: str) -> ConfigError:
    return ConfigError(
        f"key file {file}", f"does not hold {wanted}", "a file of fleetsave keys generate",
        "private keys end in .key, public ones in .pub",
    )  # fmt: skip
