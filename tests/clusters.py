"""What tests do to the nodes of a Redis Cluster, and to a store meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from redis import RedisCluster
from redis.asyncio import RedisCluster as AsyncRedisCluster
from redis.crc import key_slot
from waiting import wait_for

import kv
from kv.testing.suite import Lifted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    import servers


def begin(store: kv.AsyncStore, call: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
    """Have a call go on by itself: in a task, or where the store is sync in a thread."""
    if isinstance(store, Lifted):
        return asyncio.get_running_loop().run_in_executor(ThreadPoolExecutor(1), asyncio.run, call)
    return asyncio.create_task(call)


class Move:
    """A slot on its way from one node to another, as `redis-cli --cluster reshard` moves it, step by step."""

    def __init__(self, tag: str, source: servers.Redis, target: servers.Redis) -> None:
        self.slot, self.source, self.target = key_slot(tag.encode()), source, target

    def start(self) -> None:
        self.target.call("CLUSTER", "SETSLOT", self.slot, "IMPORTING", named(self.source))
        self.source.call("CLUSTER", "SETSLOT", self.slot, "MIGRATING", named(self.target))

    def keys(self, most: int = 1_000_000) -> int:
        """Move so many keys, one at a time. Gives how many there were."""
        keys = self.source.call("CLUSTER", "GETKEYSINSLOT", self.slot, most)
        for key in keys:
            self.source.call("MIGRATE", "127.0.0.1", self.target.port, key.decode(), 0, 10_000)
        return len(keys)

    def end(self) -> None:
        while self.keys():  # more have come meanwhile
            pass
        self.target.call("CLUSTER", "SETSLOT", self.slot, "NODE", named(self.target))
        self.source.call("CLUSTER", "SETSLOT", self.slot, "NODE", named(self.target))
        # who does not know yet what the other has been given last may take this one back
        wait_for(lambda: seen(self.source) == seen(self.target))

    def all(self) -> None:
        self.start()
        self.end()


def named(node: servers.Redis) -> str:
    name: str = node.call("CLUSTER", "MYID").decode()
    return name


def seen(node: servers.Redis) -> set[tuple[bytes, ...]]:
    """Who has which slots, in which epoch, as a node sees it."""
    rows = [line.split() for line in node.call("CLUSTER", "NODES").splitlines()]
    return {(row[0], row[6], *(slots for slots in row[8:] if not slots.startswith(b"["))) for row in rows}


def tags(node: servers.Redis, most: int) -> list[str]:
    """So many tags, each of a slot of its own that the node has."""
    rows = node.call("CLUSTER", "SLOTS")
    held = {slot for first, last, (_, port, *_), *_ in rows if port == node.port for slot in range(first, last + 1)}
    found: dict[int, str] = {}
    for tag in map("t{}".format, range(100_000)):
        if (slot := key_slot(tag.encode())) in held:
            found.setdefault(slot, tag)
        if len(found) == most:
            break
    return [*found.values()]


def errors(nodes: list[servers.Redis], name: str) -> int:
    """How often the nodes have given an error."""
    return sum(node.call("INFO", "errorstats").get(f"errorstat_{name}", {"count": 0})["count"] for node in nodes)


@contextlib.asynccontextmanager
async def lent(colour: str, host: str, port: int, **settings: Any) -> AsyncIterator[tuple[Any, Callable[..., Any]]]:
    """A client of redis-py's, and what opens a store with it."""
    if colour == "sync":
        with RedisCluster(host=host, port=port, **settings) as client:
            yield client, kv.RedisStore
    else:
        async with AsyncRedisCluster(host=host, port=port, **settings) as other:
            yield other, kv.AsyncRedisStore
