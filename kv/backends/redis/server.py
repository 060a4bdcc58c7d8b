"""Where Redis is, and what is asked of it: a URL or a client of somebody else, options, and what the server says it is."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

from kv import options
from kv.errors import ConfigError, KVError, Unavailable
from kv.url import hide

from .names import check_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from .routing import Address

OPTIONS: Final[Mapping[str, options.Check]] = {
    "cleanup_interval": options.seconds_or_off,
    "lock_timeout": options.seconds,
    "namespace": options.names,
    "pool_max": options.whole(1),
    "prefix": options.names,
    "socket_timeout": options.seconds,
}
PARAMETERS: Final[Mapping[str, options.Check]] = {
    "client_name": str,
    "db": options.whole(0),
    "password": str,
    "protocol": options.one_of("2", "3"),
    "socket_connect_timeout": options.seconds,
    "socket_keepalive": options.flag,
    "socket_read_size": options.whole(1),
    "socket_timeout": options.seconds,
    "ssl_ca_certs": str,
    "ssl_ca_data": str,
    "ssl_cert_reqs": options.one_of("none", "optional", "required"),
    "ssl_certfile": str,
    "ssl_check_hostname": options.flag,
    "ssl_ciphers": str,
    "ssl_keyfile": str,
    "ssl_min_version": options.whole(1),
    "ssl_password": str,
    "username": str,
}
"""What redis-py reads from the URL itself. Before 8.1 it decodes them twice, and leaves numbers as they are."""

_DEFAULTS: Final = {"socket_connect_timeout": 10.0, "protocol": 2}
_LEAST: Final = 7
"""The first version of Redis with all that is asked of it."""


class Server:
    """What both colours are told, checked.

    Args:
        server: a URL, or a client or a connection pool of redis-py.
        what: the store's class, for messages.
        driver: `redis` or `redis.asyncio`, to connect with.
        given: the options.
    """

    def __init__(self, server: Any, what: str, driver: ModuleType, **given: object) -> None:
        opts: Any = options.checked(given, OPTIONS, what)
        self.prefix = check_prefix(opts["prefix"])
        self.timeout: float = opts["lock_timeout"]
        self.most: int = opts["pool_max"]
        self.seeds: list[Address] = []
        self.version = ""
        self.client: Any = None
        self._driver = driver
        self._told: dict[str, Any] = {}
        self._warned = False
        if isinstance(server, str):
            self.shown = hide(server)
            self._read(server, opts["socket_timeout"])
            return
        self.shown = f"the Redis of the given {type(server).__name__}"
        self.client = server
        if isinstance(server, driver.RedisCluster):
            nodes = server.nodes_manager.startup_nodes.values()
            self.seeds = [(node.host, int(node.port)) for node in nodes]
        elif not isinstance(server, (driver.Redis, driver.ConnectionPool)):
            raise ConfigError(
                f"{what} takes a URL, or a Redis, RedisCluster or ConnectionPool of {driver.__name__}, "
                f"not {type(server).__module__}.{type(server).__name__}"
            )

    def _read(self, url: str, longest: float) -> None:
        base, _, query = url.partition("?")
        scheme, _, rest = base.partition("://")
        kind, plus, cluster = scheme.lower().partition("+")
        if kind not in ("redis", "rediss", "unix") or (plus and (cluster != "cluster" or kind == "unix")):
            raise ConfigError(
                f"{self.shown}: expected redis://, rediss:// (TLS), unix://, redis+cluster:// or rediss+cluster://"
            )
        hosts, slash, path = rest.partition("/")
        who, at, hosts = hosts.rpartition("@")
        several = hosts.split(",")
        if "#" in url or (hosts and not at and "@" in path + query.partition("=")[0]):
            raise ConfigError(
                f"{self.shown}: a /, a ? or a # in a user's name or a password is %2F, %3F or %23 in a URL"
            )
        if kind == "unix" and (hosts or not path):
            raise ConfigError(f"{self.shown}: expected the whole path of a socket, as in unix:///run/redis.sock")
        if len(several) > 1 and not plus:
            raise ConfigError(f"{self.shown}: several hosts are those of a cluster; take {kind}+cluster://")
        if kind != "unix" and path and not path.isdecimal():
            raise ConfigError(f"{self.shown}: what stands behind the host is the number of a database, not {path!r}")
        asked = options.checked(dict(parse_qsl(query)), PARAMETERS, f"{scheme}://")
        asked = {"socket_timeout": longest, **asked}
        if not self._parsed(several if plus else [], f"{kind}://{who}{at}{several[0]}{slash}{path}", asked):
            raise ConfigError(f"{self.shown} is no URL of Redis; see its host and port")
        if plus and self._told.get("db"):
            raise ConfigError(
                f"{self.shown}: a Redis Cluster has no database but 0; take a namespace, or another prefix"
            )
        self.maker(("", 0))()  # sees parameters that this kind of connection does not take

    def _parsed(self, seeds: list[str], first: str, asked: dict[str, Any]) -> bool:
        """Whether it could be read. What is raised where not may hold the password, and goes no further."""
        try:
            for host in seeds:
                parts = urlsplit(f"//{host}")
                self.seeds.append((parts.hostname or "localhost", parts.port or 6379))
            self._told = {**_DEFAULTS, **self._driver.connection.parse_url(first), **asked}
        except ValueError:
            return False
        return True

    def maker(self, address: Address) -> Callable[[], Any]:
        """Give what makes a connection, not yet connected, to a server."""
        from redis import RedisError
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        told = dict(self._told)
        cls = told.pop("connection_class", self._driver.connection.Connection)
        if address[0]:
            told["host"], told["port"] = address
        # never again by itself: it would not know what a first try has written
        make = partial(cls, retry=self._retry(Retry, NoBackoff), **told)

        def made() -> Any:
            try:
                return make()
            except (TypeError, ValueError, RedisError) as e:
                raise ConfigError(f"{self.shown}: redis-py does not take that: {e}") from e

        return made

    def _retry(self, cls: Any, backoff: Any) -> Any:
        if self._driver.__name__ == "redis.asyncio":
            from redis.asyncio.retry import Retry

            cls = Retry
        return cls(backoff(), 0)

    def judge(self, said: bytes) -> None:
        """Take what `INFO` says; raise or warn where that is not what a store needs."""
        lines = (line.partition(":") for line in said.decode(errors="replace").splitlines())
        info = {name: value for name, _, value in lines}
        self.version = info.get("valkey_version") or info.get("redis_version", "")
        major = self.version.partition(".")[0]
        if major.isdecimal() and int(major) < _LEAST:
            raise ConfigError(f"{self.shown} is version {self.version}; kv needs Redis {_LEAST} or newer, or Valkey")
        if not self.seeds and info.get("cluster_enabled") == "1":
            raise ConfigError(
                f"{self.shown} is a server of a Redis Cluster; take redis+cluster://, or a RedisCluster of redis-py"
            )
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction" and info.get("maxmemory", "0") != "0" and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.shown} removes entries when its memory is full (maxmemory-policy {policy}): they may vanish "
                "before their deadline. Set noeviction where that must not be",
                RuntimeWarning,
                stacklevel=2,
            )

    def nodes(self) -> list[Address]:
        """Give the nodes that somebody else's cluster client knows, as it calls them."""
        return [(node.host, int(node.port)) for node in self.client.get_nodes()]

    def unknown(self, error: KVError | None) -> KVError:
        """The error where no server says which slots are where."""
        return error or Unavailable(f"{self.shown}: no server of the cluster has any slots; see CLUSTER INFO")


def no_driver(error: ImportError) -> ConfigError:
    """The error for a driver that is not installed."""
    return ConfigError(f'the driver redis is missing ({error}); install it: pip install "anykv[redis]"')
