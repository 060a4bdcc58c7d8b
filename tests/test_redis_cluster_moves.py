"""A store in a Redis Cluster whose slots move from server to server, and whose servers come, go and stand still.

The cluster is this file's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
import servers
from clusters import Move, begin, errors, lent, named, tags
from colours import both
from waiting import until, wait_for

import kv
from kv.testing.suite import bounded, lifted, listed, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Opens = Callable[..., Any]

SETTINGS: Any = {"cluster_allow_replica_migration": "no"}  # else who gives its last slot away becomes a replica


@pytest.fixture(scope="module")
def own() -> Iterator[servers.RedisCluster]:
    cluster = servers.redis_cluster(3, **SETTINGS)
    yield cluster
    cluster.close()


@pytest.fixture
def url(own: servers.RedisCluster) -> Iterator[str]:
    """Where a new, empty store may be made."""
    yield own.url
    with kv.open(own.url) as store:
        store.clear()


# a slot on its way


@both
def test_every_call_follows_a_slot_at_every_step_of_its_way(opens: Opens, own: servers.RedisCluster, url: str) -> None:
    source, target, _ = own.nodes
    (tag,) = tags(source, 1)
    move = Move(tag, source, target)
    old = [f"{{{tag}}}{n}" for n in range(9)]
    done = 0

    async def main() -> None:
        async with lifted(opens(url)) as store:
            await store.set_many(dict.fromkeys(old, b"0"))

            async def use() -> None:
                nonlocal done
                done += 1
                key, new = old[0], f"{{{tag}}}new"
                assert await store.increment(key) == done
                assert await store.increment(key, 0, ttl=None, ttl_if_new=50) == done  # a script
                assert await store.get(key) == b"%d" % done
                assert await store.update(old[-1], lambda value: b"%d" % (int(value or 0) + 1)) == b"%d" % done
                assert await store.compare_and_set(old[-1], b"%d" % done, b"%d" % done)
                assert await store.size(key) == len(b"%d" % done)
                assert await store.get(new) is None
                assert await store.add(new, b"new", ttl=50)
                assert not await store.add(new, b"newer")
                assert await store.expire(new, None)
                assert await store.pop(new) == b"new"
                assert not await store.delete(new)
                assert await store.keys() == old
                assert [key for key, _ in await listed(store.scan())] == old
                assert await store.namespaces() == []

            await use()
            move.start()
            await use()
            for _ in old:
                move.keys(1)
                await use()
            move.end()
            await use()
            assert (await store.stats()).keys == len(old)
            source.call("SCRIPT", "FLUSH")
            target.call("SCRIPT", "FLUSH")
            await use()

    bounded(main, 60)


@both
def test_a_cluster_that_is_down_for_a_moment_is_asked_again(opens: Opens, own: servers.RedisCluster, url: str) -> None:
    """As it is where a primary hands over to its replica, and another one hears of the first part first."""
    node = own.nodes[0]

    async def main() -> None:
        async with lifted(opens(url)) as store:
            (tag,) = tags(node, 1)
            before = errors(own.nodes, "CLUSTERDOWN")
            node.call("CLUSTER", "DELSLOTS", 0)
            try:
                writing = begin(store, store.increment(f"{{{tag}}}n"))
                await until(lambda: errors(own.nodes, "CLUSTERDOWN") > before)
            finally:
                node.call("CLUSTER", "ADDSLOTS", 0)
            assert await writing == 1

    bounded(main, 60)


@both
def test_a_call_on_keys_that_a_move_has_parted_waits_until_they_are_together(
    opens: Opens, own: servers.RedisCluster, url: str
) -> None:
    source, target, _ = own.nodes
    (tag,) = tags(source, 1)
    move = Move(tag, source, target)
    keys = [f"{{{tag}}}{n}" for n in range(4)]

    async def main() -> None:
        async with lifted(opens(url)) as store:
            await store.set_many(dict.fromkeys(keys, b"old"))
            move.start()
            move.keys(2)
            before = errors(own.nodes, "TRYAGAIN")
            calls = [
                begin(store, call)
                for call in (
                    store.get_many(keys),
                    store.set_many(dict.fromkeys(keys, b"new")),
                    store.set_many(dict.fromkeys(keys, b"new"), ttl=50),
                    store.update_many(keys, lambda found: dict.fromkeys(found, b"new")),
                )
            ]
            await until(lambda: errors(own.nodes, "TRYAGAIN") > before + 100)  # many more than a command is redirected
            assert not any(call.done() for call in calls)
            move.end()
            values = await calls[0]
            assert values in (dict.fromkeys(keys, b"old"), dict.fromkeys(keys, b"new"))
            await asyncio.gather(*calls)
            assert await store.get_many(keys) == dict.fromkeys(keys, b"new")

    bounded(main, 60)


@both
def test_who_waits_too_long_for_parted_keys_is_told(opens: Opens, own: servers.RedisCluster, url: str) -> None:
    source, target, _ = own.nodes
    (tag,) = tags(source, 1)
    move = Move(tag, source, target)
    keys = [f"{{{tag}}}{n}" for n in range(4)]

    async def main() -> None:
        async with lifted(opens(url, lock_timeout=0.2)) as store:
            await store.set_many(dict.fromkeys(keys, b"old"))
            move.start()
            move.keys(2)
            for call in (
                store.get_many(keys),
                store.set_many(dict.fromkeys(keys, b"new")),
                store.delete_many(keys),
                store.update_many(keys, lambda found: dict.fromkeys(found, b"new")),
            ):
                with pytest.raises(kv.Unavailable, match="slots are being moved"):
                    await call
            move.end()
            assert await store.get_many(keys) == dict.fromkeys(keys, b"old")

    bounded(main, 60)


@both
def test_nothing_is_lost_or_doubled_or_hidden_while_slots_move_under_load(
    opens: Opens, own: servers.RedisCluster, url: str
) -> None:
    first, second, _ = own.nodes
    (*there, one), (*back, other) = tags(first, 21), tags(second, 21)
    every = [*there, *back]
    fixed = sorted(f"{{{tag}}}stays{n}" for tag in every for n in range(5))
    counts = dict.fromkeys(every, 0)
    stop = threading.Event()
    calls = {"listing": 0, "writing": 0}
    for node, tag in ((first, one), (second, other)):  # so that a listing takes longer than a slot on its way
        fill = "for i = 1, 100000 do redis.call('SET', KEYS[1] .. i, '') end"
        node.call("EVAL", fill, 1, f"somebody else's {{{tag}}}")

    async def main() -> None:
        async with lifted(opens(url)) as store:
            for tag in every:
                await store.set_many({f"{{{tag}}}stays{n}": b"%d" % n for n in range(5)})

            async def write(who: int) -> None:
                mine = every[who::4]
                while not stop.is_set():
                    for tag in mine:
                        await store.increment(f"{{{tag}}}n")
                        await store.update(f"{{{tag}}}u", lambda value: b"%d" % (int(value or 0) + 1))
                        counts[tag] += 1
                        assert await store.get(f"{{{tag}}}n") == b"%d" % counts[tag]
                        both = dict.fromkeys((f"{{{tag}}}x", f"{{{tag}}}y"), b"%d" % counts[tag])
                        await store.set_many(both)
                        assert await store.get_many(both) == both
                        await store.delete(f"{{{tag}}}x")
                        calls["writing"] += 1
                    some = fixed[who::4]
                    assert [*await store.get_many(some)] == some

            async def read() -> None:
                while not stop.is_set():
                    keys = await store.keys(match="*stays*")
                    assert keys == fixed
                    assert [(key, value) async for key, value in store.scan(match="*stays*")] == [
                        (key, key[-1].encode()) for key in fixed
                    ]
                    calls["listing"] += 1

            working = [begin(store, call) for call in (*(write(n) for n in range(4)), read())]

            async def move() -> None:
                for pair in zip(there, back, strict=True):
                    await until(lambda seen=calls["writing"]: calls["writing"] > seen or any(w.done() for w in working))  # type: ignore[misc]
                    for tag, way in zip(pair, ((first, second), (second, first)), strict=True):
                        await asyncio.to_thread(Move(tag, *way).all)

            try:
                await move()
                seen = calls["listing"]
                await until(lambda: calls["listing"] > seen or any(work.done() for work in working))
            finally:
                stop.set()
                await asyncio.gather(*working, return_exceptions=True)
            for work in working:
                work.result()
            for tag in every:
                assert await store.get_many([f"{{{tag}}}n", f"{{{tag}}}u"]) == dict.fromkeys(
                    (f"{{{tag}}}n", f"{{{tag}}}u"), b"%d" % counts[tag]
                )

    bounded(main, 60)
    for node in own.nodes:
        node.call("FLUSHALL")


# servers that come and go


@contextlib.contextmanager
def joined(own: servers.RedisCluster) -> Iterator[servers.Redis]:
    """One more node, without slots, which leaves again."""
    bus = servers.free_port()
    node = servers.own_redis(**servers.RedisCluster.SETTINGS, **SETTINGS, cluster_port=str(bus))
    try:
        own.nodes[0].call("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        name = named(node).encode()
        wait_for(lambda: all(name in each.call("CLUSTER", "NODES") for each in own.nodes))
        own.nodes.append(node)
        own.settle()
        yield node
        for each in own.nodes[:-1]:
            each.call("CLUSTER", "FORGET", name.decode())
    finally:
        own.nodes.remove(node)
        node.close()


@both
def test_a_server_that_joins_is_found_and_one_that_leaves_is_left(
    opens: Opens, own: servers.RedisCluster, url: str
) -> None:
    source = own.nodes[0]
    some = tags(source, 4)
    keys = sorted(f"{{{tag}}}{n}" for tag in some for n in range(5))
    firsts: list[tuple[Callable[[kv.AsyncStore], Any], object]] = [
        (lambda store: store.keys(), keys),
        (lambda store: store.get_many(keys), dict.fromkeys(keys, b"v")),
        (lambda store: store.count(), len(keys)),
        (lambda store: store.verify(), []),
    ]
    colour = "sync" if opens is kv.open else "async"

    def connections(node: servers.Redis) -> int:
        return node.call("CLIENT", "LIST").count(b"name=mine ")  # type: ignore[no-any-return]

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(lifted(opens(f"{url}?client_name=mine"))) for _ in firsts]
            client, cls = await stack.enter_async_context(lent(colour, "127.0.0.1", source.port))
            theirs = await stack.enter_async_context(lifted(cls(client)))
            for key in keys:
                await stores[0].set(key, b"v")
            with joined(own) as node:
                move = Move(some[0], source, node)
                move.start()
                move.keys(3)  # to a server that has no slot yet
                for store in (*stores, theirs):
                    assert await store.keys() == keys
                    assert [key for key, _ in await listed(store.scan())] == keys
                    assert await store.get(keys[0]) == await store.get(keys[1]) == b"v"
                move.end()
                for tag in some[1:]:
                    Move(tag, source, node).all()
                for store, (call, answer) in zip(stores, firsts, strict=True):
                    assert await call(store) == answer  # whichever call comes first
                    assert await store.update(keys[0], lambda value: value) == b"v"
                assert connections(node) >= len(stores)
                for tag in some:
                    Move(tag, node, source).all()
                for store in (*stores, theirs):
                    assert await store.get_many(keys) == dict.fromkeys(keys, b"v")
                    assert await store.keys() == keys
                await until(lambda: connections(node) == 0)
            for store in (*stores, theirs):
                assert await store.get_many(keys) == dict.fromkeys(keys, b"v")
                assert await store.keys() == keys

    bounded(main, 60)


@both
def test_servers_that_do_not_say_who_they_are_are_those_that_were_asked(
    opens: Opens, own: servers.RedisCluster
) -> None:
    """As where they stand behind a router of addresses: all that they tell of each other are ports."""
    source, target, _ = own.nodes
    (tag,) = tags(source, 1)
    move = Move(tag, source, target)
    for node in own.nodes:
        node.call("CONFIG", "SET", "cluster-preferred-endpoint-type", "unknown-endpoint")

    async def main() -> None:
        async with lifted(opens(own.url.replace("127.0.0.1", "127.1"))) as store:
            key = f"{{{tag}}}n"
            await store.increment(key)
            move.start()
            move.keys()
            assert await store.increment(key) == 2  # ASK
            move.end()
            assert await store.increment(key) == 3  # MOVED
            moved = errors(own.nodes, "MOVED")
            assert await store.increment(key) == 4
            assert errors(own.nodes, "MOVED") == moved  # it has learned
            assert await store.keys() == [key]
            assert await store.clear() == 1

    try:
        bounded(main, 60)
    finally:
        for node in own.nodes:
            node.call("CONFIG", "SET", "cluster-preferred-endpoint-type", "ip")


def test_a_part_that_is_down_is_unavailable_until_it_is_back(own: servers.RedisCluster, url: str) -> None:
    up, _, down = own.nodes
    (here, *_), (there, *_) = tags(up, 1), tags(down, 1)
    keys = [f"{{{here}}}k", f"{{{there}}}k"]
    stores: list[kv.AsyncStore] = []

    async def opened() -> kv.AsyncStore:
        store = lifted((kv.open, kv.open_async)[len(stores) % 2](url))
        stores.append(store)
        return store

    async def refused(said: str, *which: str) -> None:
        async def one(call: Any) -> None:
            with pytest.raises(kv.Unavailable, match=said):
                await call

        for store in stores:
            calls = [
                call
                for key in which
                for call in (
                    store.get(key),
                    store.set(key, b"lost"),
                    store.increment(key),
                    store.update(key, lambda _: b"lost"),
                    store.get_many(keys),
                    store.delete_many([key]),
                    store.keys(),
                    store.stats(),
                )
            ]
            await together(store, *map(one, calls))

    async def main() -> None:
        for _ in range(2):
            store = await opened()
            await store.set(keys[0], b"v")
        down.kill()
        await refused("cannot be reached", keys[1])  # the others have not noticed
        await until(lambda: b"cluster_state:fail" in up.call("CLUSTER", "INFO"))
        for _ in range(2):
            await opened()
        await refused("a part of the cluster is down|cannot be reached", *keys)
        for node in own.nodes[:2]:
            node.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
        await until(lambda: all(b"cluster_state:ok" in node.call("CLUSTER", "INFO") for node in own.nodes[:2]))
        for _ in range(2):
            await opened()
        await refused("cannot be reached", keys[1])
        for store in stores:
            assert await store.get(keys[0]) == b"v"
            assert await store.increment(f"{{{here}}}n") > 0
            with pytest.raises(kv.OutcomeUnknown, match="a part of it has been done"):
                await store.delete_many(keys)
            assert await store.get(keys[0]) is None
            await store.set(keys[0], b"v")
        down.start()
        for node in own.nodes:
            node.call("CONFIG", "SET", "cluster-require-full-coverage", "yes")
        await asyncio.to_thread(own.settle)
        for n, store in enumerate(stores):
            assert await store.increment(keys[1]) == n + 1
            assert await store.delete_many(keys) == 2
            await store.set_many({keys[0]: b"v"})
            await store.set(keys[1], b"%d" % (n + 1))
            assert await store.keys() == sorted([*keys, f"{{{here}}}n"])
            await store.aclose()

    bounded(main, 60)


@both
def test_a_write_on_its_way_when_all_servers_die_may_have_happened(opens: Opens) -> None:
    two = servers.redis_cluster(2)
    slow, dead = two.nodes
    (here,), (there,) = tags(slow, 1), tags(dead, 1)

    async def main() -> None:
        async with lifted(opens(two.url)) as store:
            await store.set(f"{{{here}}}k", b"v")
            slow.call("CLIENT", "PAUSE", 60_000, "WRITE")
            dead.kill()
            writing = [
                begin(store, store.increment(f"{{{here}}}n")),
                begin(store, store.delete_many([f"{{{here}}}k", f"{{{there}}}k"])),
            ]
            await until(lambda: slow.call("CLIENT", "LIST").count(b" flags=b ") == 2)
            slow.kill()
            for one in writing:
                with pytest.raises(kv.OutcomeUnknown, match="may or may not have happened"):
                    await one
            with pytest.raises(kv.Unavailable):
                await store.increment(f"{{{here}}}n")

    try:
        bounded(main, 60)
    finally:
        two.close()
