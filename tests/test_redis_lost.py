"""Answers that are lost on their way: a write is done once, and said to be unknown; a read is asked again."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
import servers
from proxy import Proxy
from test_redis_clients import drivers, on, retrying

import kv
from kv.testing.suite import LONG, bounded, lifted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    Body = Callable[[kv.AsyncStore], Any]

whose = pytest.mark.parametrize("whose", ["own connections", "a client that retries"])


@pytest.fixture(scope="module")
def own() -> Iterator[servers.Redis]:
    server = servers.own_redis()
    yield server
    server.close()


@contextlib.asynccontextmanager
async def opened(proxy: Proxy, driver: Any, whose: str) -> AsyncIterator[kv.AsyncStore]:
    """A store that comes to the server by the proxy."""
    url = f"redis://127.0.0.1:{proxy.port}/0"
    if whose == "own connections":
        async with lifted((kv.open_async if driver is redis.asyncio else kv.open)(url)) as store:
            yield store
    else:
        async with on(driver.Redis.from_url(url, **retrying(driver))) as store:
            yield store


def run(server: servers.Redis, driver: Any, whose: str, body: Callable[[kv.AsyncStore, Proxy], Any]) -> None:
    async def main() -> None:
        with Proxy(server.port) as proxy:
            async with opened(proxy, driver, whose) as store:
                await body(store, proxy)
                await store.clear()

    bounded(main, 60)


WRITES: dict[str, tuple[Body, bytes | None]] = {
    "increment": (lambda s: s.increment("n"), b"1"),
    "increment with a ttl": (lambda s: s.increment("n", ttl=LONG), b"1"),
    "set": (lambda s: s.set("n", b"new"), b"new"),
    "set_many": (lambda s: s.set_many({"n": b"new"}), b"new"),
    "set_many with a ttl": (lambda s: s.set_many({"n": b"new"}, ttl=LONG), b"new"),
    "compare_and_set": (lambda s: s.compare_and_set("n", b"0", b"1"), b"1"),
    "add": (lambda s: s.add("other", b"1"), b"0"),
    "delete": (lambda s: s.delete("n"), None),
    "delete_many": (lambda s: s.delete_many(["n", "other"]), None),
    "pop": (lambda s: s.pop("n"), None),
    "expire": (lambda s: s.expire("n", LONG), b"0"),
    "persist": (lambda s: s.persist("n"), b"0"),
}


@whose
@drivers
def test_a_write_whose_answer_is_lost_is_done_once_and_said_to_be_unknown(
    driver: Any, whose: str, own: servers.Redis
) -> None:
    async def body(store: kv.AsyncStore, proxy: Proxy) -> None:
        for what, (write, after) in WRITES.items():
            await write(store)  # now the server knows the script
            await store.set_many({"n": b"0"})
            await store.delete("other")
            proxy.lose = 1
            with pytest.raises(kv.OutcomeUnknown, match="read before you try again") as caught:
                await write(store)
            assert isinstance(caught.value.__cause__, redis.ConnectionError), what
            assert await store.get("n") == after, what
            await store.delete("n")

    run(own, driver, whose, body)


@whose
@drivers
def test_an_update_whose_answer_is_lost_is_done_once_and_said_to_be_unknown(
    driver: Any, whose: str, own: servers.Redis
) -> None:
    async def body(store: kv.AsyncStore, proxy: Proxy) -> None:
        def fn(value: bytes | None) -> bytes:
            proxy.lose = lose  # of what comes next: the write
            return (value or b"") + b"!"

        changes: list[Callable[[], Any]] = [
            lambda: store.update("n", fn),
            lambda: store.update_many(["n", "m"], lambda found: {"n": fn(found.get("n"))}),
        ]
        lose = 0
        await changes[0]()
        lose = 1
        for change in changes:
            with pytest.raises(kv.OutcomeUnknown):
                await change()
        assert await store.get("n") == b"!!!"

    run(own, driver, whose, body)


@whose
@drivers
def test_a_read_whose_answer_is_lost_is_asked_again(driver: Any, whose: str, own: servers.Redis) -> None:
    async def body(store: kv.AsyncStore, proxy: Proxy) -> None:
        await store.set_many({"a": b"1", "b": b"2"})
        reads: list[tuple[Callable[[], Any], Any]] = [
            (lambda: store.get("a"), b"1"),
            (lambda: store.get_many(["a", "b"]), {"a": b"1", "b": b"2"}),
            (lambda: store.exists("a"), True),
            (lambda: store.size("a"), 1),
            (lambda: store.ttl("a"), float("inf")),
            (store.keys, ["a", "b"]),
            (store.count, 2),
            (store.namespaces, []),
            (store.verify, []),
            (lambda: store.update("a", lambda value: value), b"1"),
        ]
        for read, answer in reads:
            proxy.lose = 1
            assert await read() == answer
            assert proxy.lose == 0
        proxy.lose = 1_000
        for read, _ in reads:
            with pytest.raises(kv.Unavailable):
                await read()
        proxy.lose = 0

    run(own, driver, whose, body)
