"""Stores that come to their server through a `FaultProxy`, and what the server itself says of them."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import pytest
from faultproxy import Fault, FaultProxy, Message
from waiting import wait_for

import kv
from kv.testing.suite import LONG, together

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping


SOAK: Final = float(os.environ.get("KV_SOAK", "0"))
"""Seconds that the long forms may take; 0: the short ones, which the suite runs."""


def report(what: str) -> None:
    """Say what a long form has done; pytest's `-rP` shows it."""
    if SOAK:
        print(what)


class Network(NamedTuple):
    """A server, the way to it, and how to look at it without the store under test.

    Attributes:
        backend: its name.
        url: by the way.
        proxy: the way.
        direct: a store that comes there by itself.
        held: gives what entries there are, also those that have expired.
        connections: gives how many connections there are of who came by the way.
        expire: makes what begins with this expire long ago.
    """

    backend: str

    url: str
    proxy: FaultProxy
    direct: kv.Store
    held: Callable[[], dict[str, bytes]]
    connections: Callable[[], int]
    expire: Callable[[str], object]

    def put(self, entries: Mapping[str, bytes]) -> None:
        """Have these entries there, and no others. What begins with `dead` has expired."""
        self.direct.clear()
        self.direct.cleanup()
        if entries:
            self.direct.set_many(entries)
        if any(key.startswith("dead") for key in entries):
            self.expire("dead")

    def end(self) -> None:
        """End every connection, and wait until the server has: then nothing is under way there."""
        self.proxy.end()
        wait_for(lambda: self.connections() == 0)


@contextlib.contextmanager
def network(backend: str, request: pytest.FixtureRequest) -> Iterator[Network]:
    """A way to a new, empty store."""
    get = request.getfixturevalue
    url = str(get(f"{backend}_url"))
    name = url.rpartition("=")[2]
    named = {"postgres": f"application_name=by-{name}", "redis": f"client_name=by-{name}"}[backend]
    where = urlsplit(url)
    user, at, _ = where.netloc.rpartition("@")
    with (
        kv.open(url) as direct,
        FaultProxy(where.port or 0, "postgresql" if backend == "postgres" else "redis") as proxy,
    ):
        way = where._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}").geturl()
        told = _postgres(get("admin"), name) if backend == "postgres" else _redis(get("redis_admin"), name)
        yield Network(backend, f"{way}&{named}", proxy, direct, *told)


def _postgres(admin: Any, table: str) -> tuple[Any, Any, Any]:
    def held() -> dict[str, bytes]:
        return dict(admin.execute(f"SELECT key, value FROM {table}").fetchall())

    def connections() -> int:
        rows = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", (f"by-{table}",))
        return int(rows.fetchone()[0])

    def expire(prefix: str) -> None:
        admin.execute(
            f"UPDATE {table} SET expires_at = now() - interval '1 hour', expires_bucket = 0 WHERE key LIKE %s",
            (f"{prefix}%",),
        )

    return held, connections, expire


def _redis(admin: Any, prefix: str) -> tuple[Any, Any, Any]:
    def held() -> dict[str, bytes]:
        names = [*admin.scan_iter(f"{prefix}::*", count=1_000)]
        return {name.decode().partition("::")[2]: admin.get(name) for name in names}

    def connections() -> int:
        return sum(one["name"] == f"by-{prefix}" for one in admin.client_list())

    return held, connections, lambda _: None


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
    """Check that as many calls as the pool has connections go side by side, and that it has no more."""
    net.put(ENTRIES)
    net.proxy.delay = 0.01  # or one might be back before the next one goes
    assert await together(store, *(store.keys() for _ in range(most))) == [[*ENTRIES]] * most
    net.proxy.delay = 0.0
    assert net.connections() == most


async def outcome(call: Awaitable[Any]) -> Any:
    """What it gives, or raises of ours."""
    try:
        return await call
    except kv.KVError as e:
        return e


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
