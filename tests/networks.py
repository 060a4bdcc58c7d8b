"""Stores that come to their server through a `FaultProxy`, and what the server itself says of them.

`KV_SOAK=1 python -m pytest -o faulthandler_timeout=0 -rP tests/test_network*.py` takes every place of every message of every
operation, where the suite takes some, and says what came of it: half an hour on two cores.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import pytest
import servers
from clusters import tags
from faultproxy import Fault, FaultProxy, Message
from redis import Redis
from waiting import wait_for

import kv
from kv.testing.suite import LONG, together

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping


SOAK: Final = float(os.environ.get("KV_SOAK", "0"))
"""0: the short forms, which the suite runs."""


def report(what: str) -> None:
    """Say what a long form has done; pytest's `-rP` shows it."""
    if SOAK:
        print(what)


class Network(ABC):
    """A server, the way to it, and how to look at it without the store under test.

    Attributes:
        backend: its name.
        proxy: the way.
        url: a new, empty store, by the way.
        name: what its connections are called at the server.
        counted: whether `connections` are those of the store.
    """

    backend: str
    counted = True

    def __init__(self, proxy: FaultProxy, url: str, name: str) -> None:
        self.proxy = proxy
        self.url = url
        self.name = name

    @abstractmethod
    def put(self, entries: Mapping[str, bytes]) -> None:
        """Have these entries there, and no others. What begins with `dead` has expired."""

    @abstractmethod
    def held(self) -> dict[str, bytes]:
        """Give what entries there are, also those that have expired."""

    @abstractmethod
    def connections(self) -> int:
        """Give how many connections there are that have come by the way."""

    def end(self) -> None:
        """End every connection, and wait until the server has: then nothing is under way there."""
        self.proxy.end()
        wait_for(lambda: self.connections() == 0)


class PostgresNetwork(Network):
    """PostgreSQL, looked at by a connection of its own."""

    backend = "postgres"

    def __init__(self, proxy: FaultProxy, url: str, name: str, admin: Any, table: str) -> None:
        super().__init__(proxy, url, name)
        self.table = table
        self._admin = admin

    def put(self, entries: Mapping[str, bytes]) -> None:
        self._admin.execute(f"DELETE FROM {self.table}")
        with kv.PostgresStore(self._admin, table=self.table) as store:
            store.set_many(entries)
        self._admin.execute(
            f"UPDATE {self.table} SET expires_at = now() - interval '1 hour', expires_bucket = 0 WHERE key LIKE 'dead%'"
        )

    def held(self) -> dict[str, bytes]:
        return dict(self._admin.execute(f"SELECT key, value FROM {self.table}").fetchall())

    def connections(self) -> int:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        return int(self._admin.execute(asked, (self.name,)).fetchone()[0])


class PoolerNetwork(PostgresNetwork):
    """PgBouncer before it, whose connections stay: those are counted that are in use."""

    counted = False

    def connections(self) -> int:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'"
        return int(self._admin.execute(asked, (self.name,)).fetchone()[0])


class RedisNetwork(Network):
    """Redis, or one server of a cluster that has all that is asked for, looked at by a client of its own."""

    backend = "redis"

    def __init__(self, proxy: FaultProxy, url: str, name: str, admin: Any, begin: str) -> None:
        super().__init__(proxy, url, name)
        self._admin = admin
        self._begin = begin

    def _names(self) -> list[bytes]:
        return [*self._admin.scan_iter(f"{self._begin}*", count=1_000)]

    def put(self, entries: Mapping[str, bytes]) -> None:
        for name in self._names():
            self._admin.delete(name)
        for key, value in entries.items():
            self._admin.set(f"{self._begin}{key}", value)

    def held(self) -> dict[str, bytes]:
        return {name.decode().removeprefix(self._begin): self._admin.get(name) for name in self._names()}

    def connections(self) -> int:
        return sum(one["name"] == self.name for one in self._admin.client_list())


@contextlib.contextmanager
def network(backend: str, request: pytest.FixtureRequest) -> Iterator[Network]:
    """A way to a new, empty store."""
    get = request.getfixturevalue
    url = str(get(f"{backend}_url"))
    begin = url.rpartition("=")[2]
    where = urlsplit(url)
    user, at, _ = where.netloc.rpartition("@")
    name = f"by-{begin}"
    with FaultProxy(where.port or 0, "postgresql" if backend == "postgres" else "redis") as proxy:
        way = where._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}").geturl()
        if backend == "postgres":
            kv.open(url).close()  # there is a table
            yield PostgresNetwork(proxy, f"{way}&application_name={name}", name, get("admin"), begin)
        else:
            yield RedisNetwork(proxy, f"{way}&client_name={name}", name, get("redis_admin"), f"{begin}::")


@contextlib.contextmanager
def network_of_a_cluster() -> Iterator[Network]:
    """A way to that server of a cluster which has the slot of a namespace; the other servers are reached without."""
    cluster = servers.redis_cluster(2)
    try:
        near, far = sorted(cluster.nodes, key=lambda node: not tags(node, 1_000).count("t5"))
        with FaultProxy(near.port, "redis") as proxy, Redis.from_url(near.url) as admin:
            near.call("CONFIG", "SET", "cluster-announce-port", proxy.port)
            wait_for(lambda: b":%d@" % proxy.port in far.call("CLUSTER", "NODES"))
            hosts = f"127.0.0.1:{proxy.port},127.0.0.1:{far.port}"
            url = f"redis+cluster://{hosts}?namespace=%7Bt5%7D&client_name=by-the-way"
            yield RedisNetwork(proxy, url, "by-the-way", admin, "kv:{t5}:")
    finally:
        cluster.close()


class Operation(NamedTuple):
    """A call: what is there before it, how it is made, what it gives, and what is there afterwards."""

    name: str
    before: Mapping[str, bytes]
    call: Callable[[kv.AsyncStore], Any]
    gives: Any
    after: Mapping[str, bytes]

    @property
    def reads(self) -> bool:
        return self.before == self.after


ENTRIES: Final = {"a": b"1", "b": b"2", "c": b"3"}

OPERATIONS: Final = (
    Operation("get", ENTRIES, lambda s: s.get("a"), b"1", ENTRIES),
    Operation("get_many", ENTRIES, lambda s: s.get_many([*"abx"]), {"a": b"1", "b": b"2"}, ENTRIES),
    Operation("keys", ENTRIES, lambda s: s.keys(), ["a", "b", "c"], ENTRIES),
    Operation("set", ENTRIES, lambda s: s.set("a", b"new"), None, {**ENTRIES, "a": b"new"}),
    Operation("set with a ttl", ENTRIES, lambda s: s.set("a", b"new", ttl=LONG), None, {**ENTRIES, "a": b"new"}),
    Operation("delete", ENTRIES, lambda s: s.delete("a"), True, {"b": b"2", "c": b"3"}),
    Operation("add", ENTRIES, lambda s: s.add("d", b"4"), True, {**ENTRIES, "d": b"4"}),
    Operation("increment", ENTRIES, lambda s: s.increment("a", 5), 6, {**ENTRIES, "a": b"6"}),
    Operation("compare_and_set", ENTRIES, lambda s: s.compare_and_set("a", b"1", b"9"), True, {**ENTRIES, "a": b"9"}),
    Operation("pop", ENTRIES, lambda s: s.pop("a"), b"1", {"b": b"2", "c": b"3"}),
    Operation(
        "update", ENTRIES, lambda s: s.update("a", lambda old: (old or b"") + b"!"), b"1!", {**ENTRIES, "a": b"1!"}
    ),
    Operation(
        "update_many",
        ENTRIES,
        lambda s: s.update_many([*"abd"], lambda old: {"a": old["b"], "d": b"4"}),
        {"a": b"2", "d": b"4"},
        {"a": b"2", "c": b"3", "d": b"4"},
    ),
    Operation(
        "set_many", ENTRIES, lambda s: s.set_many({"a": b"8", "d": b"9"}), None, {**ENTRIES, "a": b"8", "d": b"9"}
    ),
    Operation(
        "set_many with a ttl",
        ENTRIES,
        lambda s: s.set_many({"a": b"8", "d": b"9"}, ttl=LONG),
        None,
        {**ENTRIES, "a": b"8", "d": b"9"},
    ),
    Operation("clear", ENTRIES, lambda s: s.clear(), 3, {}),
    Operation("cleanup", {**ENTRIES, "dead1": b"", "dead2": b""}, lambda s: s.cleanup(), 2, ENTRIES),
)


async def check_whole(net: Network, store: kv.AsyncStore, most: int) -> None:
    """Check that as many calls as the pool may have connections go side by side, and that it has no more."""
    net.put(ENTRIES)
    net.proxy.delay = 0.01
    for _ in range(20):  # one may be back before the next one goes
        assert await together(store, *(store.keys() for _ in range(most))) == [[*ENTRIES]] * most
        if not net.counted or net.connections() >= most:
            break
    net.proxy.delay = 0.0
    assert not net.counted or net.connections() == most


async def outcome(call: Awaitable[Any]) -> Any:
    """What it gives, or raises of ours."""
    try:
        return await call
    except kv.KVError as e:
        return e


OF_REDIS: Final = OPERATIONS[:-1]
"""Without `cleanup`, which has nothing to do there."""

CASES: Final = [
    pytest.param(backend, operation, id=f"{backend}-{operation.name.replace(' ', '-')}")
    for backend, operations in (("postgres", OPERATIONS), ("redis", OF_REDIS))
    for operation in operations
]


class Trial:
    """One store, and one operation of it after the other, each with one fault."""

    def __init__(self, net: Network, store: kv.AsyncStore) -> None:
        self.net = net
        self.store = store
        self.outcomes: Counter[str] = Counter()

    async def clean(self, operation: Operation, *, cold: bool) -> list[Message]:
        """Let it go well, on a connection that has been used for it or on a new one. Gives the messages."""
        for _ in range(1 if cold else 2):
            self.net.put(operation.before)
            if cold:
                self.net.end()
            self.net.proxy.arm()
            assert await operation.call(self.store) == operation.gives, operation.name
            assert self.net.held() == operation.after, operation.name
        return self.net.proxy.seen

    async def struck(self, operation: Operation, fault: Fault, *, cold: bool, connecting: bool) -> None:
        """Let it meet the fault, and compare what the caller is told with what the server has."""
        await self.clean(operation, cold=cold)
        self.net.put(operation.before)
        if cold:
            self.net.end()
        self.net.proxy.arm(fault)
        result = await outcome(operation.call(self.store))
        assert self.net.proxy.struck.wait(30), (operation.name, fault)
        self.net.end()
        held, about = self.net.held(), (operation.name, fault, result)
        if isinstance(result, kv.OutcomeUnknown):
            assert not operation.reads, about
            assert not connecting, about
            assert held in (operation.before, operation.after), about
        elif isinstance(result, kv.Unavailable):
            assert cold or not operation.reads, about  # which is tried again
            assert held == operation.before, about
        else:
            assert (result, held) == (operation.gives, operation.after), about
        assert not isinstance(result, kv.KVError) or "wr0ng" not in str(result)
        self.outcomes[type(result).__name__ if isinstance(result, kv.KVError) else "done"] += 1


@pytest.fixture(params=["postgres", "redis"])
def net(request: pytest.FixtureRequest) -> Iterator[Network]:
    """A way to each server."""
    with network(request.param, request) as made:
        yield made
