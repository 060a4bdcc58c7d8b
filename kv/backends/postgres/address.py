"""Where the server is: a URL as libpq reads it, for both drivers. Pure."""

from __future__ import annotations

import os
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from kv.errors import ConfigError
from kv.url import hide

CONNECT_TIMEOUT: Final = 10.0
"""Seconds to wait for a connection, where neither the URL nor `PGCONNECT_TIMEOUT` says."""

PARAMETERS: Final = (
    *(
        "application_name",
        "channel_binding",
        "client_encoding",
        "connect_timeout",
        "dbname",
        "fallback_application_name",
    ),
    *("gssdelegation", "gssencmode", "gsslib", "host", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle"),
    *("keepalives_interval", "krbsrvname", "load_balance_hosts", "max_protocol_version", "min_protocol_version"),
    *("options", "passfile", "password", "port", "require_auth", "requirepeer", "service", "ssl_max_protocol_version"),
    *("ssl_min_protocol_version", "sslcert", "sslcertmode", "sslcompression", "sslcrl", "sslcrldir", "sslkey"),
    *("sslmode", "sslnegotiation", "sslpassword", "sslrootcert", "sslsni", "target_session_attrs", "tcp_user_timeout"),
    "user",
)
"""What libpq takes in a URL's query."""

_ASYNCPG: Final = {
    *("dbname", "gsslib", "host", "krbsrvname", "passfile", "password", "port", "service", "ssl_max_protocol_version"),
    *("ssl_min_protocol_version", "sslcert", "sslcrl", "sslkey", "sslmode", "sslnegotiation", "sslpassword"),
    *("sslrootcert", "target_session_attrs", "user"),
}
"""What asyncpg reads in it just as libpq does."""
_HARMLESS: Final = {
    *("client_encoding", "gssdelegation", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval"),
    *("load_balance_hosts", "max_protocol_version", "min_protocol_version", "sslcertmode", "sslcompression", "sslsni"),
    "tcp_user_timeout",
}
"""What asyncpg cannot do, and nobody is worse off without."""


def check(url: str) -> str:
    """Give the URL back, or raise `ConfigError` for what no server is needed to see."""
    try:
        if urlsplit(url).scheme not in ("postgresql", "postgres"):
            raise ConfigError(f"{hide(url)} is not postgresql://user:password@host:5432/database")
        authority = url.partition("://")[2].partition("?")[0].partition("/")[0]
        hosts = authority.rpartition("@")[2]
        query = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
        ports = [host.rpartition(":")[2] for host in hosts.split(",") if ":" in host.rpartition("]")[2]]
        for port in [*ports, *query.get("port", "").split(",")]:
            if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
                raise ConfigError(f"{hide(url)}: the port {port!r} is no number from 1 to 65535")
        timeout = query.get("connect_timeout", "")
        if timeout and not timeout.lstrip("-").isdecimal():
            raise ConfigError(f"{hide(url)}: connect_timeout={timeout!r} is no number of seconds")
    except ValueError as e:
        if isinstance(e, ConfigError):
            raise
        raise ConfigError(f"{hide(url)} is no valid URL: {e}") from None
    return url


def for_psycopg(url: str) -> dict[str, Any]:
    """What `psycopg.connect` is told besides the URL, which libpq reads by itself."""
    told: dict[str, Any] = {"client_encoding": "utf8"}
    if _timeout(url) is None:
        told["connect_timeout"] = round(CONNECT_TIMEOUT)
    return told


def for_asyncpg(url: str) -> dict[str, Any]:
    """What asyncpg is told, of what libpq would read in the URL and in the environment."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    settings = {}
    for name, variable in (("application_name", "PGAPPNAME"), ("options", "PGOPTIONS")):
        if value := query.get(name) or os.environ.get(variable) or query.get(f"fallback_{name}"):
            settings[name] = value
    for name, needed in (("channel_binding", "require"), ("gssencmode", "require")):
        if query.get(name) == needed:
            raise ConfigError(f"{hide(url)}: asyncpg cannot do {name}=require; kv.open, which uses libpq, can")
    for name in ("require_auth", "requirepeer", "sslcrldir"):
        if query.get(name):
            raise ConfigError(f"{hide(url)}: asyncpg cannot do {name}; kv.open, which uses libpq, can")
    if "hostaddr" in query:  # where to connect to; the host's name is for certificates
        query["host"] = query["hostaddr"]
        if query.get("sslmode") == "verify-full":
            raise ConfigError(f"{hide(url)}: asyncpg cannot do hostaddr with sslmode=verify-full; kv.open can")
    known = urlencode({name: value for name, value in query.items() if name in _ASYNCPG and value})
    # asyncpg takes what is before the first @ as the user, and reads no database but one with a slash before it
    authority, host = parts.netloc.rpartition("@")[::2]
    if "host" in query and "hostaddr" in query:
        host = ""
    user, colon, password = authority.partition(":")
    netloc = f"{_again(user)}{colon}{_again(password)}@{host}" if authority else host
    dsn = f"postgresql://{netloc}{parts.path}{'?' if known else ''}{known}"
    timeout = _timeout(url)
    return {
        "dsn": dsn,
        "timeout": CONNECT_TIMEOUT if timeout is None else timeout or None,
        "server_settings": settings,
    }


def _again(text: str) -> str:
    return quote(unquote(text), safe="")


def _timeout(url: str) -> float | None:
    """The seconds of `connect_timeout`, 0 for no bound, or None where nobody says."""
    query = dict(parse_qsl(urlsplit(url).query))
    said = query.get("connect_timeout") or os.environ.get("PGCONNECT_TIMEOUT")
    if not said:
        return None
    try:
        return max(float(said), 0.0)
    except ValueError:
        raise ConfigError(f"PGCONNECT_TIMEOUT={said!r} is no number of seconds") from None
