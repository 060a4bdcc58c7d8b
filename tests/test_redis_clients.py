"""Stores on clients and pools of somebody else: whatever those are set to, used as they are, and never closed here."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
import servers
from redis.backoff import NoBackoff
from waiting import until

import kv
from kv.testing import Conformance
from kv.testing.suite import LONG, bounded, lifted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

drivers = pytest.mark.parametrize("driver", [redis, redis.asyncio], ids=["sync", "async"])


@pytest.fixture
def prefix(redis_url: str) -> str:
    """The first word of all names in this test's store."""
    return redis_url.rpartition("=")[2]


def retrying(driver: Any) -> dict[str, Any]:
    """What a client is told that tries everything again that it may."""
    retry = redis.asyncio.retry.Retry if driver is redis.asyncio else redis.retry.Retry
    return {"retry": retry(NoBackoff(), 3), "retry_on_error": [redis.ConnectionError, redis.TimeoutError]}


async def now(answer: Any) -> Any:
    """What a client of either colour answers."""
    return await answer if inspect.isawaitable(answer) else answer


@contextlib.asynccontextmanager
async def on(client: Any, **options: Any) -> AsyncIterator[kv.AsyncStore]:
    """A store of the client's colour, which leaves nothing in use and nothing closed; the client is closed afterwards."""
    cls: Any = kv.AsyncRedisStore if hasattr(client, "aclose") else kv.RedisStore
    pool = getattr(client, "connection_pool", client)
    try:
        async with lifted(cls(client, **options)) as store:
            yield store
        with pytest.raises(kv.StoreClosed):
            await store.get("k")
        kept = getattr(client, "connection", None)  # that a client of one connection has for itself
        assert [one for one in getattr(pool, "_in_use_connections", ()) if one is not kept] == []
        connection = await now(pool.get_connection())
        await now(connection.send_command("PING"))
        assert await now(connection.read_response()) in (b"PONG", "PONG")
        await now(pool.release(connection))
    finally:
        await now(client.aclose() if hasattr(client, "aclose") else client.close())


CLIENTS: dict[str, Callable[[Any, str], Any]] = {
    "client": lambda driver, url: driver.Redis.from_url(url),
    "decoding": lambda driver, url: driver.Redis.from_url(url, decode_responses=True, encoding="ascii"),
    "RESP2": lambda driver, url: driver.Redis.from_url(url, protocol=2),
    "RESP3": lambda driver, url: driver.Redis.from_url(url, protocol=3),
    "decoding RESP3": lambda driver, url: driver.Redis.from_url(url, protocol=3, decode_responses=True),
    "one connection": lambda driver, url: driver.Redis.from_url(url, single_connection_client=True),
    "checked": lambda driver, url: driver.Redis.from_url(url, health_check_interval=1, socket_timeout=60),
    "retrying": lambda driver, url: driver.Redis.from_url(url, **retrying(driver)),
    "pool": lambda driver, url: driver.ConnectionPool.from_url(url),
    "blocking pool": lambda driver, url: driver.BlockingConnectionPool.from_url(url, max_connections=1),
}


@pytest.mark.parametrize("kind", CLIENTS)
@drivers
def test_a_store_works_on_any_client_and_does_not_close_it(
    driver: Any, kind: str, redis: servers.Server, prefix: str
) -> None:
    async def main() -> None:
        async with on(CLIENTS[kind](driver, redis.url), prefix=prefix) as store:
            await store.set("k", b"\xff\x00", ttl=LONG)
            assert await store.get("k") == b"\xff\x00"
            assert await store.update("k", lambda value: (value or b"") + b"\xfe") == b"\xff\x00\xfe"
            assert await store.size("k") == 3
            assert LONG - 100 < (await store.ttl("k") or 0) <= LONG
            await store.set_many({"a": b"1", "é": b"2"}, ttl=LONG)
            assert await store.get_many(["é", "b", "a"]) == {"é": b"2", "a": b"1"}
            assert await store.increment("n", 2**60, ttl=LONG) == 2**60
            assert not await store.compare_and_set("a", b"2", None)
            assert [key async for key, _ in store.scan()] == ["a", "k", "n", "é"]
            assert await store.namespaces() == []
            assert (await store.stats()).value_bytes == 3 + 1 + 1 + 19
            assert await store.pop("a") == b"1"
            assert await store.verify() == []
            with pytest.raises(kv.NotAnInteger):
                await store.increment("k")
            assert await store.clear() == 3

    bounded(main, 60)


class OnPool(kv.AsyncRedisStore):
    """Closes the caller's pool after itself, whose loop is the suite's."""

    async def _close(self) -> None:
        await super()._close()
        await self._server.client.aclose()


class TestPoolOfTheCaller(Conformance):
    @pytest.fixture(params=["sync", "async"])
    def store(self, request: pytest.FixtureRequest, redis: servers.Server, prefix: str) -> Iterator[Any]:
        from redis import BlockingConnectionPool as Pool
        from redis.asyncio import BlockingConnectionPool as AsyncPool

        more: dict[str, Any] = {"decode_responses": True, "protocol": 3, "max_connections": 10}
        if request.param == "async":
            yield OnPool(AsyncPool.from_url(redis.url, **more), prefix=prefix)
        else:
            pool = Pool.from_url(redis.url, **more)
            yield kv.RedisStore(pool, prefix=prefix)
            pool.disconnect()


@drivers
def test_what_is_no_client_of_the_store_s_colour_is_refused(driver: Any) -> None:
    class Alike:
        def get_connection(self) -> None: ...

    other: Any = redis if driver is redis.asyncio else redis.asyncio
    cls: Any = kv.RedisStore if driver is redis else kv.AsyncRedisStore
    for client in (
        *(other.Redis(), other.ConnectionPool(), driver.sentinel.Sentinel([]), driver.Redis, driver.Connection()),
        *(Alike(), 42, None, b"redis://localhost", object()),
    ):
        with pytest.raises(kv.ConfigError, match=f"takes a URL, or a Redis, .* of {driver.__name__}, not "):
            cls(client)


@pytest.mark.parametrize(("kind", "more"), [("ConnectionPool", {}), ("BlockingConnectionPool", {"timeout": 0.05})])
@drivers
def test_a_pool_with_nothing_left_says_so(
    driver: Any, kind: str, more: dict[str, Any], redis: servers.Server, prefix: str
) -> None:
    pool = getattr(driver, kind).from_url(redis.url, max_connections=1, **more)

    async def main() -> None:
        async with on(pool, prefix=prefix) as store:
            await store.set("k", b"v")
            taken = await now(pool.get_connection())
            for call in (lambda: store.get("k"), lambda: store.set("k", b"x"), store.keys):
                with pytest.raises(kv.Unavailable, match="max_connections"):
                    await call()
            await now(pool.release(taken))
            assert await store.get("k") == b"v"

    bounded(main, 60)


@drivers
def test_a_connection_that_the_server_has_ended_is_not_written_to(
    driver: Any, redis: servers.Server, redis_admin: redis.Redis, prefix: str
) -> None:
    client = driver.Redis.from_url(redis.url, client_name=prefix)

    async def main() -> None:
        async with on(client, prefix=prefix) as store:
            for n in range(5):
                await store.set("k", b"%d" % n)
                (mine,) = [one for one in redis_admin.client_list() if one["name"] == prefix]
                redis_admin.client_kill_filter(_id=mine["id"])
                assert await store.increment("k") == n + 1  # at once, before the event loop has heard of it

    bounded(main, 60)


def test_a_task_cancelled_at_any_await_leaves_the_caller_s_pool_whole(redis: servers.Server, prefix: str) -> None:
    from redis.asyncio import BlockingConnectionPool

    class Pool(BlockingConnectionPool):
        """Takes its time to take a connection back after an answer, as one does where others have its lock."""

        async def release(self, connection: Any) -> None:
            for _ in range(3 if connection.is_connected else 0):
                await asyncio.sleep(0)
            await super().release(connection)

    class Stop(BaseException):
        pass

    def fn(_: bytes | None) -> bytes:
        raise Stop

    async def main() -> None:
        async with on(Pool.from_url(redis.url, max_connections=2, timeout=20), prefix=prefix) as store:

            async def work() -> None:
                await store.set("a", b"1", ttl=50)
                await store.update_many(["a", "b"], lambda found: {"b": b"2", **found})
                _ = [entry async for entry in store.scan()]
                with pytest.raises(Stop):
                    await store.update("a", fn)

            done, ticks = False, 0
            while not done:
                tasks = [asyncio.create_task(work()) for _ in range(3)]
                for _ in range(ticks):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(r is None or isinstance(r, asyncio.CancelledError) for r in results), results
                done = all(r is None for r in results)
                ticks += 1 + ticks // 5
            await asyncio.gather(*(store.increment("n") for _ in range(20)))
            assert await store.get("n") == b"20"

    bounded(main, 60)


# Sentinel


class Sentinel(servers.Process):
    """A Redis Sentinel, which says which server is the primary."""

    def __init__(self, binary: Path, primary: servers.Redis) -> None:
        super().__init__()
        self.port = servers.free_port()
        config = self.root / "sentinel.conf"
        config.write_text(f"port {self.port}\nbind 127.0.0.1\nsentinel monitor kept 127.0.0.1 {primary.port} 1\n")

        def ready() -> bool:
            with contextlib.suppress(redis.ConnectionError):
                return bool(self.call("PING"))
            return False

        self.spawn([binary, config, "--sentinel"], ready)

    def call(self, *command: str | int) -> Any:
        with redis.Redis(port=self.port) as client:
            return client.execute_command(*command)

    def turn_to(self, primary: servers.Redis) -> None:
        """Say at once what it would say some seconds after a primary has gone."""
        self.call("SENTINEL", "REMOVE", "kept")
        self.call("SENTINEL", "MONITOR", "kept", "127.0.0.1", primary.port, 1)


@pytest.fixture(scope="module")
def failover() -> Iterator[tuple[Sentinel, servers.Redis, servers.Redis]]:
    """A Sentinel and two servers."""
    with contextlib.ExitStack() as stack:
        nodes = []
        for _ in range(2):
            nodes.append(servers.own_redis(repl_diskless_sync_delay="0"))
            stack.callback(nodes[-1].close)
        sentinel = Sentinel(nodes[0].start_command[0], nodes[0])
        stack.callback(sentinel.close)
        yield sentinel, nodes[0], nodes[1]


@pytest.mark.parametrize("ended", [True, False], ids=["connections ended", "connections left"])
@drivers
def test_a_client_of_a_sentinel_goes_on_with_the_new_primary(
    driver: Any, failover: tuple[Sentinel, servers.Redis, servers.Redis], ended: bool
) -> None:
    sentinel, old, new = failover
    old.call("REPLICAOF", "NO", "ONE")
    old.call("FLUSHALL")
    new.call("REPLICAOF", "127.0.0.1", old.port)
    sentinel.turn_to(old)

    async def main() -> None:
        where = driver.sentinel.Sentinel([("127.0.0.1", sentinel.port)])
        async with on(where.master_for("kept")) as store:
            await store.set("k", b"v")
            assert await store.increment("n") == 1
            await until(lambda: new.call("GET", "kv::n") == b"1")
            new.call("REPLICAOF", "NO", "ONE")
            sentinel.turn_to(new)
            old.call("REPLICAOF", "127.0.0.1", new.port)
            if ended:
                old.call("CLIENT", "KILL", "TYPE", "normal")
            assert await store.increment("n") == 2
            assert await store.get("k") == b"v"
            assert new.call("GET", "kv::n") == b"2"
            assert await store.clear() == 2
        for one in where.sentinels:
            await now(one.aclose() if driver is redis.asyncio else one.close())

    bounded(main, 60)
