from datetime import UTC, datetime
from pathlib import Path

import pytest
from kombu.utils.url import parse_url
from pydantic import ValidationError

from tasks.access import BrokerSettings, OperatorSettings, TrustSettings
from tasks.app import make_app
from tasks.broker import open_redis, redact_url
from tasks.config import Settings, load_settings
from tasks.errors import ConfigError
from tasks.keys import generate_key

KEY = generate_key("k")


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """Give a file that holds a password which no URL could hold as it is."""
    file = tmp_path / "password"
    file.write_text("p@ss:w/rd%?#\n")
    return file


def connection_of(url: str) -> dict[str, object]:
    """Return what the Redis client makes of an URL."""
    with open_redis(url, client_name="x") as client:
        return dict(client.connection_pool.connection_kwargs)


@pytest.mark.parametrize(
    "url", ["redis://broker:6380/2", "rediss://broker:6380/2", "redis+socket:///run/r.sock"]
)
def test_password_reaches_both_clients(password_file: Path, url: str) -> None:
    """From its file, whatever is in it; and is shown nowhere."""
    broker = BrokerSettings(username="host-alpha", password_file=password_file)
    settings = Settings(broker=broker, broker_url=url)
    found = connection_of(settings.broker_url)
    assert (found["username"], found["password"]) == ("host-alpha", "p@ss:w/rd%?#")
    app = make_app(settings)
    with app.connection_for_write() as connection:
        # For a Unix socket kombu keeps the whole URL in place of the host's name, and parses that.
        held = parse_url(connection.hostname) if "socket" in url else connection.info()
    app.close()
    assert (held["userid"], held["password"]) == ("host-alpha", "p@ss:w/rd%?#")
    assert "p%40ss" not in redact_url(settings.broker_url)


def test_certificates_are_always_checked(tmp_path: Path) -> None:
    """By both clients; kombu alone would take any certificate."""
    for name in ("ca", "cert", "key"):
        (tmp_path / name).touch()
    broker = BrokerSettings(ca_file=tmp_path / "ca", cert_file=tmp_path / "cert", key_file=tmp_path / "key")
    for settings in (Settings(broker=broker, broker_url="rediss://b/0"), Settings(broker_url="rediss://b/0")):
        found = connection_of(settings.broker_url)
        app = make_app(settings)
        with app.connection_for_write() as connection:
            ssl = connection.ssl
        app.close()
        assert found["ssl_cert_reqs"] == "required"
        assert ssl["ssl_cert_reqs"].name == "CERT_REQUIRED"
        assert found["ssl_check_hostname"] is ssl["ssl_check_hostname"] is True
    assert ssl.get("ssl_ca_certs") is None
    found = connection_of(Settings(broker=broker, broker_url="rediss://b/0").broker_url)
    assert (found["ssl_ca_certs"], found["ssl_certfile"], found["ssl_keyfile"]) == tuple(
        str(tmp_path / name) for name in ("ca", "cert", "key")
    )


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[trust.keys]\nk = 'short'", "trust.keys"),
        ("[trust.keys]\n'a/b' = 'KEY'", "trust.keys"),
        ("[trust]\ninsecure = true\nkeys_dir = '/'", "trust"),
        ("[trust]\nkeys_dir = 'relative'", "trust.keys_dir"),
        ("[trust]\nkey = 'x'", "trust.key"),
        ("[broker]\npassword_file = '/nonexistent'", "broker.password_file"),
        ("[broker]\nca_file = '/dev/null'", "broker_url"),
        ("[broker]\ncert_file = '/dev/null'", "broker"),
        ("[broker]\nusername = 'x'", "broker"),
        ("[broker]\npassword_file = '/dev/null'", "broker_url"),
        ("[operators.alice]\nkey = 'short'\nroles = []", "operators.alice.key"),
        ("[operators.alice]\nkey = 'KEY'\nroles = ['web']", "operators.alice"),
        ("[operators.'a b']\nkey = 'KEY'\nroles = []", "operators.a b"),
        ("[operators.alice]\nkey = 'KEY'\nroles = []\nuntil = 2027-01-01T00:00:00", "operators.alice.until"),
        ("[roles.web]\noperations = ['wipe']\ndomains = ['@all']", "roles.web.operations"),
        ("[roles.web]\noperations = ['save']\ndomains = ['@everything']", "roles.web.domains"),
    ],
)
def test_wrong_setting_is_named(tmp_path: Path, text: str, where: str) -> None:
    """With its table; a mistake in who may do what must not mean that anybody may."""
    file = tmp_path / "x.toml"
    file.write_text(text.replace("KEY", KEY.public.text))
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    assert where in str(caught.value)
    assert caught.value.exit_code == 2


def test_url_to_which_nothing_is_added_stays_as_it_is() -> None:
    """Slashes that stand for no host included."""
    for url in ("redis://b/0", "redis+socket:///run/r.sock?virtual_host=3"):
        assert Settings(broker_url=url).broker_url == url


def test_password_in_url_and_file_contradict_each_other(password_file: Path) -> None:
    """One of them would be silently forgotten."""
    with pytest.raises(ValidationError, match="no password"):
        Settings(broker=BrokerSettings(password_file=password_file), broker_url="redis://:x@b/0")


def test_settings_of_hosts_and_control_are_read(tmp_path: Path) -> None:
    """As docs/SECURITY.md writes them."""
    file = tmp_path / "x.toml"
    file.write_text(f"""
    signing_key = "/etc/fleetsave/control.key"
    [trust]
    keys_dir = "/etc/fleetsave/trusted"
    keys = {{ "control-2026" = "{KEY.public.text}" }}
    [roles.web-team]
    operations = ["save"]
    domains = ["web-*", "@tag:web", "!web-canary"]
    [operators.alice-2026]
    key = "{KEY.public.text}"
    roles = ["web-team"]
    until = 2027-01-01T00:00:00Z
    """)
    settings = load_settings(file)
    assert settings.trust == TrustSettings(
        keys={"control-2026": KEY.public.text}, keys_dir=Path("/etc/fleetsave/trusted")
    )
    operator = settings.operators["alice-2026"]
    assert isinstance(operator, OperatorSettings)
    assert operator.is_valid(datetime(2026, 12, 31, tzinfo=UTC))
    assert not operator.is_valid(datetime(2027, 1, 1, tzinfo=UTC))
    assert settings.signing_key == Path("/etc/fleetsave/control.key")
