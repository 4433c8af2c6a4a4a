"""Hold the settings that say whom this machine believes and how it proves itself."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote, urlencode, urlsplit

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.keys import PublicKey, is_key_id
from tasks.params import OPERATION_PARAMS
from tasks.selector import check_selector

#: Bytes of a password file at most.
_PASSWORD_SIZE_MAX: Final = 4096


class _Table(BaseModel):
    """A table of the settings: no key that is not known, nothing changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrustSettings(_Table):
    """Whose jobs this host runs; the [trust] table."""

    #: Key id -> public key in base64; several at once while keys are exchanged.
    keys: dict[str, str] = Field(default_factory=dict)
    #: Directory of public key files (*.pub), looked at anew for each job.
    keys_dir: Path | None = None
    #: Run what anybody sends; for a fleet that nobody else can reach, such as a test.
    insecure: bool = False

    @field_validator("keys")
    @classmethod
    def _check_keys(cls, value: dict[str, str]) -> dict[str, str]:
        for key_id, text in value.items():
            PublicKey.parse(key_id, text)
        return value

    @field_validator("keys_dir")
    @classmethod
    def _check_dir(cls, value: Path | None) -> Path | None:
        return _absolute(value)

    @model_validator(mode="after")
    def _check_meaning(self) -> Self:
        if self.insecure and (self.keys or self.keys_dir):
            message = "insecure: should be left out where keys are trusted: it would trust everybody"
            raise ValueError(message)
        return self


class BrokerSettings(_Table):
    """How this machine proves itself to Redis, and Redis to it; the [broker] table."""

    #: Redis user, as `fleetsave config redis-acl` makes them: host-NAME or control.
    username: str | None = None
    #: File that holds the password, and nothing else.
    password_file: Path | None = None
    #: With rediss://: who signed the certificate of Redis; None: the system's authorities.
    ca_file: Path | None = None
    #: With rediss://: our own certificate and its key, where Redis asks for one.
    cert_file: Path | None = None
    key_file: Path | None = None

    @field_validator("password_file", "ca_file", "cert_file", "key_file")
    @classmethod
    def _check_file(cls, value: Path | None) -> Path | None:
        if _absolute(value) is not None:
            assert value is not None
            try:
                with value.open("rb"):
                    pass
            except OSError as error:
                message = f"should be a file this user may read: {error.strerror}"
                raise ValueError(message) from error
        return value

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            message = "cert_file: should come with key_file, and key_file with cert_file"
            raise ValueError(message)
        if self.username is not None and self.password_file is None:
            message = "username: should come with password_file"
            raise ValueError(message)
        return self

    def complete_url(self, url: str) -> str:
        """Return the broker's URL with what this table adds, as Celery and the Redis client both read it.

        Raises:
            ValueError: the two contradict each other, or the password file holds none.
        """
        parts = urlsplit(url)
        if self.password_file is not None:
            if "@" in parts.netloc:
                message = "should hold no password where broker.password_file is set"
                raise ValueError(message)
            secret = quote(_read_password(self.password_file), safe="")
            parts = parts._replace(netloc=f"{quote(self.username or '', safe='')}:{secret}@{parts.netloc}")
        files = {"ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
        given = {name: str(file) for name, file in files.items() if file is not None}
        if parts.scheme != "rediss":
            if given:
                message = "should begin with rediss:// where broker.ca_file or cert_file is set"
                raise ValueError(message)
            # Put together again, an URL without a host would lose its slashes.
            return parts.geturl() if parts.netloc else url
        # Never less than a checked certificate of the right name, whatever a library's default is.
        wanted = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}
        query = "&".join(filter(None, (parts.query, urlencode(given | wanted))))
        return parts._replace(query=query).geturl()


class RoleSettings(_Table):
    """What an operator may ask for; a [roles.NAME] table."""

    #: Names of operations.
    operations: tuple[str, ...]
    #: Selector of the domains: names, globs, @all, @host:NAME, @tag:NAME, ! before what is excluded.
    domains: tuple[str, ...]

    @field_validator("operations")
    @classmethod
    def _check_operations(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for op in value:
            if op not in OPERATION_PARAMS:
                message = f"{op!r} should be one of {', '.join(OPERATION_PARAMS)}"
                raise ValueError(message)
        return value

    @field_validator("domains")
    @classmethod
    def _check_domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_selector(value)
        return value


class OperatorSettings(_Table):
    """One key that may submit jobs; an [operators.KEY_ID] table."""

    #: Public key in base64.
    key: str
    #: Names of [roles.NAME] tables; what one of them allows is allowed.
    roles: tuple[str, ...]
    #: When the key ends to count.
    until: AwareDatetime | None = None

    @field_validator("key")
    @classmethod
    def _check_key(cls, value: str) -> str:
        PublicKey.parse("operator", value)
        return value

    def is_valid(self, now: datetime) -> bool:
        """Tell whether the key still counts."""
        return self.until is None or now < self.until


def check_operators(operators: dict[str, OperatorSettings], roles: dict[str, RoleSettings]) -> None:
    """Refuse an operator whose key id is none, or whose role nobody defined.

    Raises:
        ValueError: with the operator's key id.
    """
    for key_id, operator in operators.items():
        if not is_key_id(key_id):
            message = f"operators.{key_id}: should be a key id: letters, digits, dots, dashes, underscores"
            raise ValueError(message)
        for role in operator.roles:
            if role not in roles:
                message = f"operators.{key_id}: role {role!r} should be one of {', '.join(roles) or 'none'}"
                raise ValueError(message)


def _absolute(value: Path | None) -> Path | None:
    if value is not None and not value.is_absolute():
        message = "should be an absolute path"
        raise ValueError(message)
    return value


def _read_password(file: Path) -> str:
    """Return the one line that the file holds."""
    try:
        with file.open("rb") as opened:
            text = opened.read(_PASSWORD_SIZE_MAX + 1).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        message = f"broker.password_file: {error}"
        raise ValueError(message) from error
    if not text or len(text) > _PASSWORD_SIZE_MAX or not text.isprintable():
        message = f"broker.password_file {file} should hold one line, the password"
        raise ValueError(message)
    return text
