"""Know the keys that are trusted, and refuse what none of them signed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from tasks.errors import ConfigError, RefusedJobError
from tasks.keys import PUBLIC_SUFFIX, PublicKey, read_public_key

#: Files in a directory of keys at most.
_FILES_MAX: Final = 1000

_log: Final = structlog.get_logger(__name__)

#: Refuses (RefusedJobError) a document, with its key id and its signature as they came.
CheckSignature = Callable[[bytes, object, object], None]


class Keyring:
    """Public keys by id, several valid at once: a new key is added first, the old one taken away later.

    Args:
        keys: id -> key in base64.
        folder: directory of public key files (*.pub); read anew at each look, so that a key that is put
            there or taken away counts from the next job on.

    Raises:
        ConfigError: a file in the directory holds no key, or the same id names two keys.
    """

    def __init__(self, keys: Mapping[str, str], folder: Path | None = None) -> None:
        self._fixed = {key_id: PublicKey.parse(key_id, text) for key_id, text in keys.items()}
        self._folder = folder
        self.list_keys()

    def list_keys(self) -> dict[str, PublicKey]:
        """Return the keys that are trusted now.

        Raises:
            ConfigError: as at construction.
        """
        found = dict(self._fixed)
        for file in self._list_files():
            key = read_public_key(file)
            if found.setdefault(key.key_id, key) != key:
                raise ConfigError(f"key file {file}", f"another key is called {key.key_id}", "one key an id")
        return found

    def check(self, document: bytes, key_id: object, signature: object) -> None:
        """Refuse a document that no trusted key signed; the bytes are taken as they came.

        Raises:
            RefusedJobError: reason bad_signature.
        """
        if signature is None or key_id is None:
            raise _refused("no signature", "one of a trusted key", "the control host needs signing_key")
        key = self._find(key_id)
        if key is None:
            raise _refused(
                f"signed with unknown key {key_id!r}"[:100], "a key in [trust]",
                "put its public half into keys_dir, if you trust it",
            )  # fmt: skip
        if not key.verifies(document, signature):
            raise _refused(f"not what {key.key_id} signed", "the document as it was signed", "")

    def _find(self, key_id: object) -> PublicKey | None:
        """Return the trusted key of that id; none where the keys cannot be read."""
        try:
            return self.list_keys().get(key_id) if isinstance(key_id, str) else None
        except ConfigError as error:
            _log.error("trusted keys cannot be read", error=str(error))
            return None

    def _list_files(self) -> list[Path]:
        if self._folder is None:
            return []
        try:
            files = sorted(file for file in self._folder.iterdir() if file.suffix == PUBLIC_SUFFIX)
        except OSError as error:
            raise ConfigError(
                f"keys_dir {self._folder}", error.strerror or str(error), "a directory of public keys"
            ) from error
        if len(files) > _FILES_MAX:
            raise ConfigError(f"keys_dir {self._folder}", f"{len(files)} keys", f"at most {_FILES_MAX}")
        return files


def trust_anybody(document: bytes, key_id: object, signature: object) -> None:
    """Refuse nothing: what a worker does that is told to be insecure."""
    del document, key_id, signature


def _refused(found: str, wanted: str, hint: str) -> RefusedJobError:
    return RefusedJobError("signature", found, wanted, hint, reason="bad_signature")
