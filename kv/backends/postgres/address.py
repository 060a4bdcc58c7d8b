"""Where the server is: a URL as libpq reads it, for both drivers. Pure."""

from __future__ import annotations

import os
import re
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes, urlencode, urlsplit

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

_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

_ASYNCPG: Final = {
    *("dbname", "gsslib", "host", "krbsrvname", "passfile", "password", "port", "service", "ssl_max_protocol_version"),
    *("ssl_min_protocol_version", "sslcert", "sslcrl", "sslkey", "sslmode", "sslnegotiation", "sslpassword"),
    *("sslrootcert", "target_session_attrs", "user"),
}
"""What asyncpg reads in it just as libpq does. Of the rest it is told in other ways, or `for_asyncpg` refuses what somebody
relies on; without the others, as `keepalives`, nobody is worse off."""


def check(url: str) -> str:
    """Give the URL back, or raise `ConfigError` for what no server is needed to see."""
    authority = url.partition("://")[2].partition("?")[0].partition("/")[0]
    if authority.count("@") > 1 or "#" in url:
        raise ConfigError(
            f"{hide(url)}: an @, a # or a slash in a user's name or a password is %40, %23 or %2F in a URL"
        )
    if not _readable(url):
        raise ConfigError(
            f"{hide(url)} is no valid URL; see its host and port, and that a percent sign is %25 in it, and what is "
            "percent-encoded UTF-8"
        )
    parts, query = urlsplit(url), dict(_pairs(url))
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigError(f"{hide(url)} is not postgresql://user:password@host:5432/database")
    hosts = authority.rpartition("@")[2].split(",")
    ports = [host.rpartition(":")[2] for host in hosts if ":" in host.rpartition("]")[2]]
    for port in [*ports, *query.get("port", "").split(",")]:
        if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
            raise ConfigError(f"{hide(url)}: a port is a number from 1 to 65535, and a slash in a password is %2F")
    if unknown := query.keys() - {*PARAMETERS}:
        raise ConfigError(
            f"{hide(url)}: {', '.join(sorted(unknown))} is no parameter of libpq; an option of the store is a keyword "
            "here, and may stand in the URL of kv.open"
        )
    if (mode := query.get("sslmode")) and mode not in _SSL_MODES:
        raise ConfigError(f"{hide(url)}: sslmode is one of {', '.join(_SSL_MODES)}")
    if (seconds := query.get("connect_timeout")) and not seconds.lstrip("-").isdecimal():
        raise ConfigError(f"{hide(url)}: connect_timeout is a whole number of seconds")
    return url


def for_psycopg(url: str) -> dict[str, Any]:
    """What `psycopg.connect` is told besides the URL, which libpq reads by itself."""
    told: dict[str, Any] = {"client_encoding": "utf8"}
    if _timeout(url) is None:
        told["connect_timeout"] = round(CONNECT_TIMEOUT)
    return told


def for_asyncpg(url: str) -> list[dict[str, Any]]:
    """What asyncpg is told for each host, of what libpq would read in the URL and in the environment."""
    parts = urlsplit(url)
    query = dict(_pairs(url))
    settings = {}
    for name, variable in (("application_name", "PGAPPNAME"), ("options", "PGOPTIONS")):
        if value := query.get(name) or os.environ.get(variable) or query.get(f"fallback_{name}"):
            settings[name] = value
    for name in ("channel_binding", "gssencmode", "require_auth", "requirepeer", "sslcrldir"):
        if query.get(name) and (query[name] == "require" or name not in ("channel_binding", "gssencmode")):
            raise ConfigError(f"{hide(url)}: asyncpg cannot do {name}={query[name]}; kv.open, which uses libpq, can")
    if "hostaddr" in query:  # where to connect to; the host's name is for certificates
        query["host"] = query["hostaddr"]
        if query.get("sslmode") == "verify-full":
            raise ConfigError(f"{hide(url)}: asyncpg cannot do hostaddr with sslmode=verify-full; kv.open can")
    if service := os.environ.get("PGSERVICE"):
        query.setdefault("service", service)
    # asyncpg takes what is before the first @ as the user
    who, at, where = parts.netloc.rpartition("@")
    user, colon, password = who.partition(":")
    who = f"{_again(user)}{colon}{_again(password)}{at}"
    timeout = _timeout(url)
    told = []
    for host, port in _hosts(where, query):
        known = {name: value for name, value in query.items() if name in _ASYNCPG and value}
        if host:
            known["host"] = host
        if port:
            known["port"] = port
        dsn = f"postgresql://{who}{parts.path}?{urlencode(known, quote_via=quote)}".rstrip("?")
        limit = CONNECT_TIMEOUT if timeout is None else timeout or None
        told.append({"dsn": dsn, "timeout": limit, "server_settings": settings})
    return told


def _hosts(where: str, query: dict[str, str]) -> list[tuple[str, str]]:
    """Take the hosts and ports, one after the other, from where libpq reads them; "" where it does not say."""
    named, numbered = query.pop("host", "").split(","), query.pop("port", "").split(",")
    found = []
    for spec in where.split(","):
        host, colon, port = spec.rpartition(":") if ":" in spec.rpartition("]")[2] else (spec, "", "")
        found.append((unquote(host), port if colon else ""))
    count = max(len(found), len(named))
    hosts = [host for host, _ in found] if named == [""] else named
    ports = [port for _, port in found] if numbered == [""] else numbered
    hosts, ports = (values * count if len(values) == 1 else values for values in (hosts, ports))
    return [
        (f"[{host}]" if ":" in host and host[0] not in "[/" else host, port)
        for host, port in zip(hosts, ports, strict=False)
    ]


def _pairs(url: str) -> list[tuple[str, str]]:
    """The parameters in the query, in which libpq takes a plus as it is."""
    return parse_qsl(urlsplit(url).query.replace("+", "%2B"), keep_blank_values=True)


def _readable(url: str) -> bool:
    """Whether libpq can read it. What it would say, as `urllib` does, may hold the password."""
    if re.search("%(?![0-9A-Fa-f]{2})|%00|\0", url):
        return False
    try:
        unquote_to_bytes(url).decode()
        _pairs(url)
    except ValueError:
        return False
    return True


def _again(text: str) -> str:
    return quote(unquote(text), safe="")


def _timeout(url: str) -> float | None:
    """The seconds of `connect_timeout`, 0 for no bound, or None where nobody says."""
    query = dict(_pairs(url))
    said = query.get("connect_timeout") or os.environ.get("PGCONNECT_TIMEOUT")
    if not said:
        return None
    try:
        return max(float(said), 0.0)
    except ValueError:
        raise ConfigError(f"PGCONNECT_TIMEOUT={said!r} is no number of seconds") from None
