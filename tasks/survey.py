"""Look at what lies between this machine and the fleet: broker, keys, trust; nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from engine.findings import Finding, Survey
from tasks.broker import open_redis, redact_url
from tasks.config import Settings
from tasks.errors import BrokerError, ConfigError
from tasks.keyring import Keyring
from tasks.keys import read_signing_key


def survey_fleet(settings: Settings) -> list[Finding]:
    """Return what was found; nothing where the settings name no broker: this machine is in no fleet then."""
    if "broker_url" not in settings.model_fields_set:
        return []
    survey = Survey()
    survey.look("broker", lambda: _look_at_broker(settings), lambda detail: detail)
    if settings.signing_key is not None:
        file = settings.signing_key
        survey.look("signing key", lambda: read_signing_key(file), lambda key: f"{key.key_id} signs jobs")
    if settings.trust.insecure:
        survey.warn("trust", "insecure: whoever reaches the broker can give this host jobs")
    elif settings.signing_key is None or settings.trust.model_fields_set:
        survey.look("trust", lambda: _look_at_keys(settings), lambda ids: f"jobs are taken from {ids}")
    return survey.findings


def _look_at_broker(settings: Settings) -> str:
    """Refuse a Redis that would evict doorbells and events, or lose them in a crash."""
    where = f"broker {redact_url(settings.broker_url).partition('?')[0]}"
    try:
        with closing(open_redis(settings.broker_url, client_name="fleetsave-doctor")) as redis:
            server: Any = redis.info("server")
            memory: Any = redis.info("memory")
            persistence: Any = redis.info("persistence")
    except (AuthenticationError, NoPermissionError) as error:
        raise BrokerError(
            where, str(error), "a user and a password that Redis knows",
            "see [broker], and fleetsave config redis-acl",
        ) from error  # fmt: skip
    except RedisError as error:
        raise BrokerError(
            where, str(error) or type(error).__name__, "a Redis that answers", "start it, or see broker_url"
        ) from error
    _check_memory(where, memory)
    if not persistence.get("aof_enabled"):
        raise BrokerError(
            where, "appendonly is no: what hosts report is lost when Redis ends", "appendonly yes",
            "in redis.conf; now: redis-cli CONFIG SET appendonly yes",
        )  # fmt: skip
    return f"Redis {server.get('redis_version')} answers, evicts nothing, writes an append-only file"


def _check_memory(where: str, memory: Mapping[str, Any]) -> None:
    policy = memory.get("maxmemory_policy")
    if policy != "noeviction":
        raise BrokerError(
            where, f"maxmemory-policy is {policy}: doorbells and events may be evicted", "noeviction",
            "in redis.conf; now: redis-cli CONFIG SET maxmemory-policy noeviction",
        )  # fmt: skip


def _look_at_keys(settings: Settings) -> str:
    """Return the ids of the trusted keys."""
    keys = Keyring(settings.trust.keys, settings.trust.keys_dir).list_keys()
    if not keys:
        raise ConfigError(
            "trust.keys", "no key is trusted: fleetsave worker does not start here",
            "the control host's public key", "see fleetsave keys generate",
        )  # fmt: skip
    return ", ".join(sorted(keys))
