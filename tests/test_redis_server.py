"""What a Redis server does to a store: refuses, is busy, is killed and comes back. The servers are this file's own."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
import servers
from colours import both, run
from waiting import until, wait_for

import kv
from kv.backends.redis.server import Server
from kv.testing.suite import LONG, bounded, lifted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Opens = Callable[..., Any]
    Calls = dict[str, Callable[[kv.AsyncStore], Any]]


@pytest.fixture
def own() -> Iterator[servers.Redis]:
    server = servers.own_redis(enable_debug_command="yes")
    yield server
    server.close()


READS: Calls = {
    "get": lambda s: s.get("k"),
    "get_many": lambda s: s.get_many(["k", "l"]),
    "exists": lambda s: s.exists("k"),
    "size": lambda s: s.size("k"),
    "ttl": lambda s: s.ttl("k"),
    "keys": lambda s: s.keys(),
    "count": lambda s: s.count(),
    "namespaces": lambda s: s.namespaces(),
    "stats": lambda s: s.stats(),
    "verify": lambda s: s.verify(),
}
GROWS: Calls = {
    "set": lambda s: s.set("k", b"new"),
    "set with a ttl": lambda s: s.set("k", b"new", ttl=LONG),
    "set_many": lambda s: s.set_many({"k": b"new", "l": b"new"}),
    "set_many with a ttl": lambda s: s.set_many({"k": b"new", "l": b"new"}, ttl=LONG),
    "add": lambda s: s.add("new", b"new"),
    "compare_and_set": lambda s: s.compare_and_set("k", b"0", b"new"),
    "update": lambda s: s.update("k", lambda _: b"new"),
    "update_many": lambda s: s.update_many(["k", "l"], lambda _: {"k": b"new", "l": b"new"}),
    "increment": lambda s: s.increment("k"),
    "increment with a ttl": lambda s: s.increment("k", ttl=LONG),
}
SHRINKS: Calls = {
    "delete": lambda s: s.delete("k"),
    "delete_many": lambda s: s.delete_many(["k", "l"]),
    "pop": lambda s: s.pop("k"),
    "clear": lambda s: s.clear(),
    "expire": lambda s: s.expire("k", LONG),
    "persist": lambda s: s.persist("l"),
}


async def refuses(store: kv.AsyncStore, calls: Calls, said: str) -> None:
    """Check that each of the calls is Unavailable, and says why."""
    for what, call in calls.items():
        with pytest.raises(kv.Unavailable, match=said) as caught:
            await call(store)
        assert isinstance(caught.value.__cause__, redis.RedisError), what


async def fill(store: kv.AsyncStore) -> None:
    """What all of this starts from."""
    await store.clear()
    await store.set("k", b"0")
    await store.set("l", b"0", ttl=LONG)


async def unchanged(store: kv.AsyncStore) -> None:
    """Check that it is still so, and that everything can be read."""
    for read in READS.values():
        await read(store)
    assert [entry async for entry in store.scan()] == [("k", b"0"), ("l", b"0")]
    assert await store.ttl("k") == math.inf
    assert 0 < (await store.ttl("l") or 0) <= LONG


@both
def test_a_replica_can_be_read_and_says_what_it_is(opens: Opens, own: servers.Redis) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await fill(store)
        own.call("REPLICAOF", "127.0.0.1", servers.free_port())
        await refuses(store, GROWS | SHRINKS, "it is a replica; connect to the primary")
        await unchanged(store)
        own.call("REPLICAOF", "NO", "ONE")
        await store.set("k", b"1")

    run(opens(own.url), body)


@both
def test_a_full_server_refuses_what_needs_more_and_changes_nothing(opens: Opens, own: servers.Redis) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await fill(store)
        own.call("CONFIG", "SET", "maxmemory", 1)
        await refuses(store, GROWS, "its memory is full")
        await unchanged(store)
        assert await store.delete("k")
        assert await store.pop("l") == b"0"

    run(opens(own.url), body)


@both
def test_a_server_without_its_replicas_refuses_writes(opens: Opens, own: servers.Redis) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await fill(store)
        own.call("CONFIG", "SET", "min-replicas-to-write", 1)
        await refuses(store, GROWS | SHRINKS, "min-replicas-to-write")
        await unchanged(store)

    run(opens(own.url), body)


@both
def test_a_server_that_cannot_save_refuses_writes(opens: Opens, own: servers.Redis) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await fill(store)
        (own.root / "dump.rdb").mkdir()  # a file cannot take its place
        own.call("CONFIG", "SET", "save", "3600 1000000")
        own.call("BGSAVE")
        await until(lambda: own.call("INFO", "persistence")["rdb_last_bgsave_status"] == "err")
        await refuses(store, GROWS | SHRINKS, "cannot save to its disk")
        await unchanged(store)
        own.call("CONFIG", "SET", "save", "")  # or it would not end
        await store.set("k", b"1")

    run(opens(own.url), body)


@both
def test_a_server_that_loads_its_data_says_so(opens: Opens, own: servers.Redis) -> None:
    def loads() -> bool:
        return bool(own.call("INFO", "persistence")["loading"])

    async def body(store: kv.AsyncStore) -> None:
        await fill(store)
        own.call("CONFIG", "SET", "rdbcompression", "no")
        own.call("DEBUG", "POPULATE", 3_000, "other", 2_000)
        own.call("SAVE")
        own.kill()
        with own.config.open("a") as config:
            config.write("key-load-delay 10000\nloading-process-events-interval-bytes 1024\n")
        own.socket.unlink()
        own.spawn(own.start_command, own.socket.exists)
        await until(loads)
        await refuses(store, READS | GROWS | SHRINKS, "it is loading its data; try again")
        own.call("CONFIG", "SET", "key-load-delay", 0)
        await until(lambda: not loads())
        await unchanged(store)

    run(opens(own.url), body)


@both
def test_a_server_that_a_script_keeps_busy_says_so(opens: Opens, own: servers.Redis) -> None:
    def loop() -> None:
        with pytest.raises(redis.ResponseError, match=r"(?i)script killed"):
            own.call("EVAL", "while true do end", 0)

    def is_busy() -> bool:
        try:
            own.call("GET", "k")
        except redis.ResponseError as e:
            return str(e).startswith("BUSY")
        return False

    async def body(store: kv.AsyncStore) -> None:
        await fill(store)
        own.call("CONFIG", "SET", "busy-reply-threshold", 1)
        thread = threading.Thread(target=loop)
        thread.start()
        await until(is_busy)
        await refuses(store, READS | GROWS | SHRINKS, "a script of somebody else keeps it busy")
        own.call("SCRIPT", "KILL")
        thread.join()
        await unchanged(store)

    run(opens(own.url), body)


@both
def test_a_user_who_may_not_is_told_what_a_store_needs(opens: Opens, own: servers.Redis) -> None:
    url = own.url.replace("//", "//reader:pw@")
    own.call("ACL", "SETUSER", "reader", "on", ">pw", "~kv:*", "+@read", "+info", "+evalsha", "+eval", "+@connection")

    async def body(store: kv.AsyncStore) -> None:
        await refuses(store, {**GROWS, **SHRINKS}, "see ACL LIST: the store needs its keys")
        await unchanged(store)

    run(opens(own.url), fill)
    run(opens(url), body)
    own.call("ACL", "SETUSER", "reader", "+@write", "+@scripting")

    async def other(store: kv.AsyncStore) -> None:
        await refuses(store, GROWS, "see ACL LIST: the store needs its keys")

    run(opens(url, prefix="other"), other)
    own.call("ACL", "SETUSER", "reader", "-info")
    with pytest.raises(kv.Unavailable, match="INFO"):
        run(opens(url), unchanged)


@both
def test_a_server_with_too_many_clients_is_unavailable(opens: Opens, own: servers.Redis) -> None:
    own.call("CONFIG", "SET", "maxclients", 2)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", own.port)))
            connection.sendall(b"PING\r\n")
            assert connection.recv(100).startswith(b"+PONG")
        with pytest.raises(kv.Unavailable, match="cannot be reached"):
            run(opens(own.url), unchanged)


# what it says that it is


def judged(info: str) -> Server:
    server = Server(
        "redis://localhost",
        "RedisStore",
        redis,
        prefix="kv",
        pool_max=1,
        lock_timeout=1,
        socket_timeout=1,
        cleanup_interval=None,
    )
    server.judge(info.encode())
    return server


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ("redis_version:7.0.0", "7.0.0"),
        ("redis_version:10.0.1", "10.0.1"),
        ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2", "9.1.2"),
        ("redis_version:255.255.255\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru", "255.255.255"),
        ("redis_version:unstable", "unstable"),
        ("", ""),
    ],
)
def test_a_server_that_is_new_enough_is_taken(info: str, version: str) -> None:
    assert judged(info).version == version


@pytest.mark.parametrize("version", ["6.2.14", "5.0.7", "2.8.0"])
def test_a_server_that_is_too_old_is_refused(version: str) -> None:
    with pytest.raises(kv.ConfigError, match=rf"is version {version}; kv needs Redis 7 or newer, or Valkey"):
        judged(f"redis_version:{version}\r\nredis_mode:standalone")


@both
def test_a_server_that_evicts_is_warned_of_once(opens: Opens, own: servers.Redis) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await fill(store)
        await store.namespace("n").set("k", b"v")
        assert (await store.stats()).version == own.call("INFO", "server")[version]

    version = "valkey_version" if "valkey_version" in own.call("INFO", "server") else "redis_version"
    run(opens(own.url), body)
    own.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    run(opens(own.url), body)  # it has all the memory there is
    own.call("CONFIG", "SET", "maxmemory", 100_000_000)
    with pytest.warns(RuntimeWarning, match=r"maxmemory-policy allkeys-lru.*Set noeviction") as warned:
        run(opens(own.url), body)
    assert len(warned) == 1


@both
def test_a_server_of_a_cluster_is_none_by_itself(opens: Opens) -> None:
    server = servers.own_redis(cluster_enabled="yes", cluster_port=str(servers.free_port()))
    with contextlib.closing(server):
        with pytest.raises(kv.ConfigError, match=r"take redis\+cluster://"):
            run(opens(server.url), fill)
        if opens is kv.open:
            with redis.Redis.from_url(server.url) as client, pytest.raises(kv.ConfigError, match="a RedisCluster"):
                kv.RedisStore(client)


# killed


@both
def test_a_write_that_a_killed_server_did_not_answer_is_told_from_one_that_was_not_sent(
    opens: Opens, own: servers.Redis
) -> None:
    async def main() -> None:
        store = lifted(opens(own.url, pool_max=1))
        await store.set("k", b"0")

        def fn(_: bytes | None) -> bytes:
            own.kill()
            return b"new"

        with pytest.raises(kv.Unavailable, match="cannot be reached"):  # that the connection has ended is seen before
            await store.update("k", fn)
        with pytest.raises(kv.Unavailable, match="cannot be reached"):
            await store.get("k")
        own.start()
        await store.set("k", b"0")

        own.call("CLIENT", "PAUSE", 60_000, "WRITE")
        thread = threading.Thread(target=kill_when_one_waits)
        thread.start()
        with pytest.raises(kv.OutcomeUnknown, match="read before you try again"):
            await store.set("k", b"1")
        thread.join()
        own.start()
        assert await store.get("k") is None
        await store.aclose()

    def kill_when_one_waits() -> None:
        wait_for(lambda: own.call("INFO", "clients")["blocked_clients"] == 1)
        own.kill()

    bounded(main, 60)
