"""Read the settings: defaults, then the TOML file, then FLEETSAVE_* variables.

The only module here that reads the environment.
"""

from __future__ import annotations

import os
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from tasks.access import BrokerSettings, OperatorSettings, RoleSettings, TrustSettings, check_operators
from tasks.envelope import is_host_name
from tasks.errors import ConfigError
from tasks.job_settings import DeadlineSettings, JobDefaults, Operation
from tasks.limits import Deadlines

DEFAULT_FILE: Final = Path("/etc/fleetsave/fleetsave.toml")
#: Names the file instead.
FILE_VARIABLE: Final = "FLEETSAVE_CONFIG"
_PREFIX: Final = "FLEETSAVE_"
_BROKER_SCHEMES: Final = ("redis", "rediss", "redis+socket")
_SYSTEM_MANAGED: Final = Path("/var/lib/libvirt/qemu/save")


class HostSettings(BaseModel):
    """What one host's worker needs to know about itself; the [host] table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: The name that jobs, queue and event stream carry.
    name: str = Field(default_factory=socket.gethostname)
    #: libvirt connection URI.
    uri: str = "qemu:///system"
    #: Directory of restore points; None: saves need a path of their own.
    store: Path | None = None
    #: Jobs read and write only below these; the store always is one of them.
    allowed_roots: tuple[Path, ...] = ()
    #: Where libvirt keeps managed save images, so that they can be measured; None: where it does by default.
    managed_save_dir: Path | None = None
    #: Journal and job folders; must survive a reboot.
    state_dir: Path = Path("/var/lib/fleetsave/host")
    #: Pipes and locks; must not survive a reboot.
    runtime_dir: Path = Path("/run/fleetsave")
    metrics_address: str = "127.0.0.1"
    #: 0 takes a free port and logs it.
    metrics_port: int = Field(default=9472, ge=0, le=65535)
    #: Jobs at a time.
    parallel: int = Field(default=2, ge=1, le=256)
    #: Operation -> jobs of it at a time, where that is fewer.
    limits: dict[Operation, Annotated[int, Field(ge=1, le=256)]] = Field(default_factory=dict)
    #: Operation -> how long its jobs may wait, take and stand still here, whatever the job says.
    deadlines: dict[Operation, DeadlineSettings] = Field(default_factory=dict)
    #: Seconds between two looks at the hypervisor.
    inventory_seconds: float = Field(default=60.0, gt=0, le=86400)

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not is_host_name(value):
            message = (
                "should be letters, digits, dots, dashes and underscores, starting with a letter or digit"
            )
            raise ValueError(message)
        return value

    @field_validator("store", "managed_save_dir", "state_dir", "runtime_dir")
    @classmethod
    def _check_path(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            message = "should be an absolute path"
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _check_roots(self) -> Self:
        for root in self.allowed_roots:
            if not root.is_absolute():
                message = f"allowed_roots: {str(root)!r} should be an absolute path"
                raise ValueError(message)
        return self

    def find_managed_save_dir(self) -> Path | None:
        """Return where libvirt keeps managed save images; None where that is unknown or not ours to read."""
        return self.managed_save_dir or default_managed_save_dir(self.uri)

    def find_deadlines(self, op: str) -> Deadlines:
        """Return how long jobs of the operation may wait, take and stand still on this host."""
        found = self.deadlines.get(op)
        return Deadlines() if found is None else Deadlines.of(found.model_dump())

    @property
    def roots(self) -> tuple[Path, ...]:
        """Return every directory that jobs may read and write below."""
        return tuple(dict.fromkeys((*self.allowed_roots, *([self.store] if self.store else []))))


class SchedulerSettings(BaseModel):
    """What a scheduler needs to know; the [scheduler] table of the control host."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Tells this scheduler from others in logs and in the lease.
    name: str = Field(default_factory=socket.gethostname, min_length=1, max_length=200)
    metrics_address: str = "127.0.0.1"
    #: 0 takes a free port and logs it.
    metrics_port: int = Field(default=9473, ge=0, le=65535)
    #: Seconds between two looks at what the hosts have said.
    pass_seconds: float = Field(default=1.0, gt=0, le=60)
    #: Seconds between two looks at jobs that do not get on.
    reconcile_seconds: float = Field(default=10.0, gt=0, le=3600)
    #: Seconds after which another scheduler leads if this one dies; several times pass_seconds.
    lease_seconds: float = Field(default=15.0, gt=0, le=3600)
    #: Seconds that a doorbell may go unheard.
    ring_again_seconds: float = Field(default=120.0, gt=0, le=86400)
    #: Seconds that a host may say nothing about a job that runs before it is asked.
    silence_seconds: float = Field(default=120.0, gt=0, le=86400)
    #: Seconds between two questions about one job.
    ask_again_seconds: float = Field(default=60.0, gt=0, le=86400)
    #: Seconds that a host may say nothing before it counts as down.
    host_down_seconds: float = Field(default=180.0, gt=0, le=86400)
    #: Hours that a host may say nothing before its jobs are given up as lost.
    host_gone_hours: float = Field(default=24.0, gt=0, le=24 * 365)


def default_managed_save_dir(uri: str) -> Path | None:
    """Return where libvirt keeps managed save images; None where that is unknown or not ours to read.

    Source: libvirt src/qemu/qemu_conf.c, virQEMUDriverConfigNew().
    """
    plain = uri.partition("?")[0]
    if plain == "qemu:///system" or (plain == "qemu:///session" and os.geteuid() == 0):
        return _SYSTEM_MANAGED if os.access(_SYSTEM_MANAGED, os.R_OK | os.X_OK) else None
    if plain == "qemu:///session":
        config = os.environ.get("XDG_CONFIG_HOME")
        return (Path(config) if config else Path.home() / ".config") / "libvirt" / "qemu" / "save"
    return None


class Settings(BaseSettings):
    """Everything that is configured; construct it with `load_settings`."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=_PREFIX, env_nested_delimiter="__", env_ignore_empty=False
    )

    #: How to prove oneself to Redis.
    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    #: redis://, rediss:// or redis+socket://; carries doorbells and events. Here with what [broker] adds.
    broker_url: str = Field(default="redis://localhost:6379/0", validate_default=True)
    #: SQLAlchemy URL of the catalog; only the control side opens it.
    catalog_url: str = "sqlite:////var/lib/fleetsave/catalog.sqlite"
    host: HostSettings = Field(default_factory=HostSettings)
    scheduler: SchedulerSettings = Field(default_factory=SchedulerSettings)
    #: Domain name -> tags, beside those in the domain's own metadata.
    tags: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    #: Whose jobs this host runs.
    trust: TrustSettings = Field(default_factory=TrustSettings)
    #: Control host: private key file that doorbells are signed with; None: only insecure workers take them.
    signing_key: Path | None = None
    #: Control host: what may be asked for by whom.
    roles: dict[str, RoleSettings] = Field(default_factory=dict)
    #: Control host: key id -> whose it is.
    operators: dict[str, OperatorSettings] = Field(default_factory=dict)
    #: Operation -> what its jobs are told where who submits does not say.
    defaults: dict[Operation, JobDefaults] = Field(default_factory=dict)

    @field_validator("broker_url")
    @classmethod
    def _check_broker_url(cls, value: str, info: ValidationInfo) -> str:
        if urlsplit(value).scheme not in _BROKER_SCHEMES:
            message = f"should begin with one of {', '.join(f'{scheme}://' for scheme in _BROKER_SCHEMES)}"
            raise ValueError(message)
        broker = info.data.get("broker")
        return broker.complete_url(value) if broker is not None else value

    @model_validator(mode="after")
    def _check_operators(self) -> Self:
        check_operators(self.operators, self.roles)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, whose content arrives as arguments."""
        del settings_cls, dotenv_settings, file_secret_settings
        return (env_settings, init_settings)


def load_settings(file: Path | None = None) -> Settings:
    """Return the settings of this machine.

    Args:
        file: the TOML file; default: $FLEETSAVE_CONFIG, else /etc/fleetsave/fleetsave.toml if it exists.

    Raises:
        ConfigError: a file that was named is missing, is no TOML, or a key or value is wrong.
    """
    named = os.environ.get(FILE_VARIABLE)
    path = file or (Path(named) if named else DEFAULT_FILE)
    document = _read_file(path, must_exist=file is not None or bool(named))
    try:
        return Settings(**document)
    except ValidationError as error:
        raise _config_error(path, error) from error
    except SettingsError as error:
        raise ConfigError(f"environment {_PREFIX}*", str(error), "lists and tables as JSON") from error


def default_params(settings: Settings, op: str) -> dict[str, Any]:
    """Return what jobs of the operation are told where who submits does not say."""
    found = settings.defaults.get(op)
    return {} if found is None else found.model_dump(exclude_none=True)


def engine_environment() -> dict[str, str]:
    """Return the environment for an engine process: ours without the settings, which may hold passwords."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_PREFIX)}


def _read_file(path: Path, *, must_exist: bool) -> dict[str, Any]:
    """Return the content of the TOML file; nothing if there is none and none was asked for."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not must_exist:
            return {}
        raise ConfigError(str(path), "no such file", "a TOML file", f"see ${FILE_VARIABLE}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(str(path), str(error), "a readable TOML file") from error


def _config_error(path: Path, error: ValidationError) -> ConfigError:
    """Name the first wrong key, where it was set, what it is and what it should be."""
    first = error.errors(include_url=False)[0]
    keys = [str(key) for key in first["loc"]]
    variable = _PREFIX + "__".join(keys).upper()
    where = f"environment {variable}" if variable in os.environ else f"{path}: {'.'.join(keys)}"
    if first["type"] == "extra_forbidden":
        return ConfigError(where, "unknown key", hint="look for a spelling mistake")
    wanted = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    found = first.get("input")
    shown = repr(found) if isinstance(found, str | int | float | bool) else type(found).__name__
    if keys and "url" in keys[-1] and isinstance(found, str):
        # An URL holds a password more often than not.
        shown = repr(f"{urlsplit(found).scheme}:...")
    return ConfigError(where, f"is {shown}", wanted.removeprefix("should be ") if wanted else "")
