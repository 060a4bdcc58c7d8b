"""What is sent to Redis for each operation, as the server itself tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import servers
from colours import both, run
from redis import Redis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from redis.client import Monitor

    import kv

    Opens = Callable[..., Any]

MANY = [f"m{n:03}" for n in range(100)]
ENTRIES = dict.fromkeys(MANY, b"v")
OPERATIONS: dict[str, tuple[list[str], Callable[[kv.AsyncStore], Awaitable[object]]]] = {
    "get": (["GET"], lambda store: store.get("k")),
    "set": (["SET"], lambda store: store.set("k", b"v")),
    "set with a ttl": (["SET"], lambda store: store.set("k", b"v", ttl=50)),
    "delete": (["UNLINK"], lambda store: store.delete("k")),
    "add": (["SET"], lambda store: store.add("k", b"v")),
    "add with a ttl": (["SET"], lambda store: store.add("new", b"v", ttl=50)),
    "increment": (["INCRBY"], lambda store: store.increment("n")),
    "increment with ttl": (["EVALSHA"], lambda store: store.increment("n", ttl=50)),
    "increment with ttl_if_new": (["EVALSHA"], lambda store: store.increment("n", ttl_if_new=50)),
    "compare_and_set": (["EVALSHA"], lambda store: store.compare_and_set("k", b"v", b"w", ttl=50)),
    "compare_and_set in vain": (["EVALSHA"], lambda store: store.compare_and_set("k", None, b"w")),
    "compare_and_set to delete": (["EVALSHA"], lambda store: store.compare_and_set("k", b"v", None)),
    "pop": (["GETDEL"], lambda store: store.pop("k")),
    "exists": (["EXISTS"], lambda store: store.exists("k")),
    "size": (["EVALSHA"], lambda store: store.size("k")),
    "ttl": (["PTTL"], lambda store: store.ttl("k")),
    "expire": (["PEXPIRE"], lambda store: store.expire("k", 50)),
    "expire never": (["EVALSHA"], lambda store: store.expire("k", None)),
    "persist": (["PERSIST"], lambda store: store.persist("k")),
    "get_many of 100": (["MGET"], lambda store: store.get_many(MANY)),
    "set_many of 100": (["MSET"], lambda store: store.set_many(ENTRIES)),
    "set_many of 100 with a ttl": (["EVALSHA"], lambda store: store.set_many(ENTRIES, ttl=50)),
    "delete_many of 100": (["UNLINK"], lambda store: store.delete_many(MANY)),
    "update": (["MGET", "EVALSHA"], lambda store: store.update("k", lambda _: b"v", ttl_if_new=50)),
    "update_many of 3": (["MGET", "EVALSHA"], lambda store: store.update_many(MANY[:3], lambda found: found)),
    "keys of 100": (["SCAN"], lambda store: store.keys("m")),
    "clear of 100": (["SCAN", "UNLINK"], lambda store: store.clear("m")),
}
"""What is sent for each: one command or one script, and two for what calls a function between them."""


@pytest.fixture(scope="module")
def own() -> Iterator[servers.Redis]:
    server = servers.own_redis()
    yield server
    server.close()


def sent(monitor: Monitor, own: servers.Redis) -> list[str]:
    """The commands that the server has got since it was asked last, without those that scripts call."""
    own.call("ECHO", "until here")
    commands: list[str] = []
    while True:
        got = monitor.next_command()  # type: ignore[no-untyped-call]
        if got["command"] == "ECHO until here":
            return commands
        if got["client_type"] == "tcp":  # as the store is, and neither scripts nor we
            commands.append(got["command"].partition(" ")[0].upper())


@both
def test_an_operation_is_one_command_or_one_script(opens: Opens, own: servers.Redis) -> None:
    found: dict[str, list[str]] = {}

    async def body(store: kv.AsyncStore) -> None:
        for _, call in OPERATIONS.values():
            await call(store)  # the server knows the scripts from now on
        with Redis.from_url(own.url) as client, client.monitor() as monitor:
            for name, (_, call) in OPERATIONS.items():
                await store.set("k", b"v")
                await store.set_many(ENTRIES)
                sent(monitor, own)
                await call(store)
                found[name] = sent(monitor, own)
        await store.clear()

    run(opens(own.url), body)
    assert found == {name: commands for name, (commands, _) in OPERATIONS.items()}


@both
def test_a_script_is_sent_whole_once(opens: Opens, own: servers.Redis) -> None:
    async def body(store: kv.AsyncStore) -> None:
        own.call("SCRIPT", "FLUSH")
        with Redis.from_url(own.url) as client, client.monitor() as monitor:
            for commands in (["EVALSHA", "EVAL"], ["EVALSHA"]):
                await store.increment("n", ttl=50)
                assert sent(monitor, own) == commands

    run(opens(own.url), body)
