"""A store in a Redis Cluster: keys of many slots, where the servers are, and somebody else's client."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import servers
from clusters import begin, lent
from colours import both
from redis import exceptions
from waiting import until

import kv
from kv.backends.redis.names import Names
from kv.backends.redis.routing import Slots
from kv.testing.suite import bounded, lifted, listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    Opens = Callable[..., Any]


def address(server: servers.Server) -> tuple[str, int]:
    """Where one of its nodes is."""
    host, _, port = server.url.partition("://")[2].partition(",")[0].partition("/")[0].rpartition(":")
    return host, int(port)


def holders(admins: list[Redis], pattern: str) -> list[int]:
    """How many keys each of the servers has that match."""
    return [sum(1 for _ in client.scan_iter(pattern, count=1_000)) for client in admins]


def has(client: Redis, name: str) -> bool:
    """Whether a server has the slot of a name."""
    with contextlib.suppress(exceptions.MovedError):
        client.exists(name)
        return True
    return False


def asked_which(admins: list[Redis]) -> int:
    """How often the servers have been asked which of them are where."""
    return sum(client.info("commandstats").get("cmdstat_cluster|slots", {"calls": 0})["calls"] for client in admins)


# what is written in one step


@both
def test_keys_of_several_slots_are_not_written_together(opens: Opens, cluster_url: str) -> None:
    async def main() -> None:
        async with lifted(opens(cluster_url)) as store:
            await store.set("a", b"old")
            calls: list[dict[str, bytes]] = []

            def fn(found: dict[str, bytes]) -> dict[str, bytes]:
                calls.append(found)
                return found

            for write in (
                lambda: store.set_many({"a": b"1", "b": b"2"}),
                lambda: store.set_many([("a", b"1"), ("b", b"2")], ttl=50),
                lambda: store.update_many(["a", "b"], fn),
                lambda: store.update_many(["{x}", "{y}"], fn, ttl=50),
            ):
                with pytest.raises(kv.ConfigError, match=r"hash slot.*nothing was written.*\{tag\}"):
                    await write()
            assert calls == []
            assert await store.keys() == ["a"]
            assert await store.get("a") == b"old"

    bounded(main, 60)


def test_to_refuse_them_needs_no_connection() -> None:
    async def main() -> None:
        store = kv.open_async(f"redis+cluster://127.0.0.1:{servers.free_port()}")
        with pytest.raises(kv.ConfigError, match="hash slot"):
            await store.set_many({"a": b"1", "b": b"2"})
        with pytest.raises(kv.ConfigError, match="hash slot"):
            await store.update_many(["a", "b"], dict)
        with pytest.raises(kv.Unavailable):
            await store.set_many({"a": b"1"})
        await store.aclose()

    bounded(main, 60)


@both
def test_no_key_and_one_key_are_written(opens: Opens, cluster_url: str) -> None:
    async def main() -> None:
        async with lifted(opens(cluster_url)) as store:
            await store.set_many({})
            assert await store.update_many([], lambda found: found) == {}
            assert await store.get_many([]) == {}
            assert await store.delete_many([]) == 0
            assert await store.keys() == []
            await store.set_many({"a": b"1"}, ttl=50)
            await store.set_many([("a", b"2"), ("a", b"3")])
            assert await store.update_many(["a", "a"], lambda found: {"a": found["a"] + b"4"}) == {"a": b"34"}

    bounded(main, 60)


@pytest.mark.parametrize("where", ["key", "namespace", "nested", "prefix"])
@both
def test_a_tag_keeps_keys_together(opens: Opens, where: str, cluster_url: str) -> None:
    tag = "{user:7}" if where == "key" else ""
    url = f"{cluster_url}{{app}}" if where == "prefix" else cluster_url
    keys = [f"{tag}{key}" for key in "abcdef"]

    async def main() -> None:
        async with lifted(opens(url)) as root:
            store = root.namespace("of {user:7}") if where in ("namespace", "nested") else root
            store = store.namespace("inside") if where == "nested" else store
            await store.set_many(dict.fromkeys(keys, b"1"))
            await store.set_many(dict.fromkeys(keys[:3], b"2"), ttl=50)
            wanted = dict.fromkeys(keys[1:], b"3")
            assert await store.update_many(keys, lambda found: dict.fromkeys([*found][1:], b"3")) == wanted
            assert await store.get_many(keys) == wanted
            assert await store.ttl(keys[1]) <= 50  # type: ignore[operator]
            assert await store.delete_many(keys) == 5
            if where != "key":  # what the key holds comes after the tag
                await store.set_many({"{x}": b"1", "{y}": b"2"})
                assert await store.keys() == ["{x}", "{y}"]
            assert await store.clear() == (0 if where == "key" else 2)

    bounded(main, 60)


def test_the_error_s_advice_is_right(cluster_url: str) -> None:
    with kv.open(cluster_url) as store:
        store.set_many({"{user:7}:name": b"", "{user:7}:cart": b""})
        assert store.keys("{user:7}") == ["{user:7}:cart", "{user:7}:name"]


# all servers


@both
def test_every_method_reaches_the_keys_of_all_servers(
    opens: Opens, cluster_url: str, cluster_admins: list[Redis]
) -> None:
    keys = [f"k{n:04}" for n in range(3_000)]
    entries = {key: key.encode() for key in keys}
    prefix = cluster_url.rpartition("=")[2]

    async def main() -> None:
        async with lifted(opens(cluster_url)) as store:
            for begin in range(0, 3_000, 100):
                await asyncio.gather(*(store.set(key, entries[key]) for key in keys[begin : begin + 100]))
            for n in range(30):
                await store.namespace(f"space {n:02}").set(f"{n}", b"apart")
            assert all(holders(cluster_admins, f"{prefix}*"))  # each has some
            backwards = keys[::-1]
            assert [*(await store.get_many([*backwards, "none", *keys])).items()] == [
                (k, entries[k]) for k in backwards
            ]
            assert await store.keys() == keys
            assert await store.keys("k1", after="k1499", limit=10) == keys[1_500:1_510]
            assert await store.keys(match="*99") == keys[99::100]
            assert await listed(store.scan()) == [*entries.items()]
            assert await listed(store.scan("k2", limit=7)) == [*entries.items()][2_000:2_007]
            assert await store.count() == 3_000
            assert await store.count("k29") == 100
            assert await store.namespaces() == [f"space {n:02}" for n in range(30)]
            stats = await store.stats()
            assert (stats.keys, stats.key_bytes, stats.value_bytes) == (3_000, 15_000, 15_000)
            assert await store.verify() == []
            await store.compact()
            assert await store.delete_many([*keys[:500], "none", *keys[:500]]) == 500
            assert await store.clear("k1") == 1_000
            assert await store.clear() == 1_500
            assert await store.keys() == []
            assert await store.namespace("space 07").keys() == ["7"]

    bounded(main, 60)


@both
def test_what_is_wrong_is_seen_on_every_server(opens: Opens, cluster_url: str, cluster_admins: list[Redis]) -> None:
    prefix = cluster_url.rpartition("=")[2]
    names = []
    for client in cluster_admins:
        names.append(next(name for n in range(1_000) if has(client, name := f"{prefix}:no entry {n}")))
        client.set(names[-1], b"")

    async def main() -> None:
        async with lifted(opens(cluster_url)) as store:
            wrong = await store.verify()
            assert [line.partition("'")[2].partition("'")[0] for line in wrong] == sorted(names)
            assert await store.keys() == []

    bounded(main, 60)


def test_servers_work_at_their_parts_of_a_batch_side_by_side(cluster_url: str, cluster_admins: list[Redis]) -> None:
    keys = [f"k{n}" for n in range(300)]
    prefix = cluster_url.rpartition("=")[2]

    async def main() -> None:
        async with kv.open_async(cluster_url) as store:
            await asyncio.gather(*(store.set(key, b"") for key in keys))
            before = holders(cluster_admins, f"{prefix}*")
            for slow, client in enumerate(cluster_admins):  # whichever is slow: no other waits for it
                client.client_pause(60_000, all=False)  # writes wait
                removing = asyncio.create_task(store.delete_many(keys))
                await until(lambda slow=slow: sum(holders(cluster_admins, f"{prefix}*")) == before[slow])  # type: ignore[misc]
                assert not removing.done()
                client.client_unpause()
                assert await removing == 300
                await asyncio.gather(*(store.set(key, b"") for key in keys))

    try:
        bounded(main, 60)
    finally:
        for client in cluster_admins:
            client.client_unpause()


# where they are


def urls(host: str, port: int) -> dict[str, str]:
    dead = servers.free_port()
    return {
        "one": f"redis+cluster://{host}:{port}",
        "with a slash": f"redis+cluster://{host}:{port}/",
        "with a database": f"REDIS+CLUSTER://{host}:{port}/0",
        "several": f"redis+cluster://{host}:{port},{host}:{port}",
        "a dead one first": f"redis+cluster://{host}:{dead},{host}:{port}/0",
        "a dead one last": f"redis+cluster://{host}:{port},{host}:{dead}",
        "a name": f"redis+cluster://{'localhost' if host == '127.0.0.1' else host}:{port}",
    }


@pytest.mark.parametrize("way", urls("", 0))
@both
def test_a_url_names_one_server_or_several(opens: Opens, way: str, cluster: servers.Server, cluster_url: str) -> None:
    url = f"{urls(*address(cluster))[way]}?socket_timeout=20&prefix={cluster_url.rpartition('=')[2]}"

    async def main() -> None:
        async with lifted(opens(url)) as store:
            for n in range(20):
                await store.set(f"{n}", b"")
            assert await store.count() == 20

    bounded(main, 60)


@both
def test_what_is_no_cluster_is_told(opens: Opens, cluster: servers.Server, redis: servers.Server) -> None:
    host, port = address(cluster)
    alone = redis.url.partition("://")[2]
    refused = {
        f"redis+cluster://{host}:{port}/1": "no database but 0",
        f"redis+cluster://{host}:{port}?db=1": "no database but 0",
        f"redis+cluster://{host}:{port},{host}:{port}/3": "no database but 0",
        f"redis://{host}:{port},{host}:{port}": "several hosts",
        f"redis://{host}:{port}": r"redis\+cluster://",
        f"redis+cluster://{alone}": "no Redis Cluster",
        f"redis+other://{host}:{port}": "scheme|expected",
    }

    async def main() -> None:
        for url, said in refused.items():
            with pytest.raises(kv.ConfigError, match=said):
                async with lifted(opens(url)) as store:
                    await store.get("k")

    bounded(main, 60)


@both
def test_no_server_that_answers_is_unavailable(opens: Opens) -> None:
    hosts = ",".join(f"127.0.0.1:{servers.free_port()}" for _ in range(3))

    async def main() -> None:
        with pytest.raises(kv.Unavailable, match="cannot be reached") as caught:
            async with lifted(opens(f"redis+cluster://user:s3cr3t@{hosts}")):
                pass
        assert "s3cr3t" not in str(caught.value)

    bounded(main, 60)


def test_who_did_not_answer_is_asked_last() -> None:
    slots = Slots([("a", 1), ("b", 2), ("c", 3)])
    slots.doubt(("a", 1))
    assert slots.known == [("b", 2), ("c", 3), ("a", 1)]
    slots.learn([[0, 16_383, [b"a", 1, b"id"]]], ("b", 2))
    assert slots.known == [("b", 2), ("c", 3), ("a", 1)]
    slots.learn([[0, 16_383, [b"a", 1, b"id"]]], ("a", 1))
    assert slots.known == [("a", 1), ("b", 2), ("c", 3)]
    assert slots.of(Names("kv", ()).of("k")) == ("a", 1)


# somebody else's client


async def asked(client: Any, *command: str) -> Any:
    answer = client.execute_command(*command)
    return await answer if asyncio.iscoroutine(answer) else answer


@pytest.mark.parametrize(
    "settings",
    [{}, {"decode_responses": True}, {"protocol": 3}, {"dynamic_startup_nodes": False}],
    ids=["plain", "decoded", "resp3", "fixed"],
)
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_client_of_somebody_else_s_is_used_and_never_closed(
    colour: str, settings: dict[str, Any], cluster: servers.Server, cluster_url: str
) -> None:
    host, port = address(cluster)
    prefix = cluster_url.rpartition("=")[2]
    if "dynamic_startup_nodes" in settings and host == "127.0.0.1":
        host = "127.1"  # not as the servers call themselves
    keys = [f"k{n}" for n in range(200)]

    async def main() -> None:
        async with lent(colour, host, port, **settings) as (client, cls):
            for _ in range(2):
                async with lifted(cls(client, prefix=prefix)) as store:
                    for key in keys:
                        await store.set(key, b"\xff" + key.encode())
                    assert await store.get_many(keys) == {key: b"\xff" + key.encode() for key in keys}
                    assert await store.keys() == sorted(keys)
                    assert await store.update("n", lambda value: b"%d" % (int(value or 0) + 1)) == b"1"
                    assert await store.increment("n", ttl_if_new=50) == 2
                    with pytest.raises(kv.ConfigError, match="hash slot"):
                        await store.set_many({"a": b"", "b": b""})
                    assert await store.clear() == 201
                await asked(client, "SET", f"{prefix}:key", "of its own")
                assert await asked(client, "GET", f"{prefix}:key") in ("of its own", b"of its own")
                await asked(client, "DEL", f"{prefix}:key")

    bounded(main, 60)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_client_of_somebody_else_s_that_has_no_connection_left_says_so(
    colour: str, cluster: servers.Server, cluster_url: str, cluster_admins: list[Redis]
) -> None:
    prefix, slow = cluster_url.rpartition("=")[2], cluster_admins[0]
    key = next(key for key in map(str, range(1_000)) if has(slow, f"{prefix}::{key}"))

    async def main() -> None:
        async with lent(colour, *address(cluster), max_connections=1) as (client, cls):
            store = lifted(cls(client, prefix=prefix))
            await store.set(key, b"v")
            slow.client_pause(60_000, all=False)
            try:
                writing = begin(store, store.delete(key))
                await until(lambda: any("b" in one["flags"] for one in slow.client_list()))
                before = asked_which(cluster_admins)
                with pytest.raises(kv.Unavailable, match="has no connection left"):
                    await store.get(key)
                assert asked_which(cluster_admins) == before  # nothing is wrong with the servers
            finally:
                slow.client_unpause()
            assert await writing
            assert await store.keys() == []
            await store.aclose()

    bounded(main, 60)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_connections_of_somebody_else_s_that_the_server_has_ended_are_not_written_to(
    colour: str, cluster: servers.Server, cluster_url: str, cluster_admins: list[Redis]
) -> None:
    prefix = cluster_url.rpartition("=")[2]

    async def main() -> None:
        async with lent(colour, *address(cluster), client_name=prefix) as (client, cls):
            store = lifted(cls(client, prefix=prefix))
            for _ in range(3):
                await asyncio.gather(*(store.increment(f"{n}") for n in range(30)))
                for admin in cluster_admins:
                    for row in admin.client_list():
                        if row["name"] == prefix:
                            admin.client_kill_filter(_id=row["id"])
            assert await store.get_many([f"{n}" for n in range(30)]) == {f"{n}": b"3" for n in range(30)}
            await store.clear()
            await store.aclose()

    bounded(main, 60)
