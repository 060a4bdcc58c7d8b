"""What is Redis' own: the names of entries, what else lies in the database, plain strings, and scripts."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, cast

import pytest
import servers
from colours import both, in_threads, run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from programs import python

import kv
from kv.backends.redis.names import Names, is_entry
from kv.testing.suite import LONG, bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis

    Opens = Callable[..., Any]
    Write = Callable[[kv.AsyncStore], Any]


@pytest.fixture
def prefix(redis_url: str) -> str:
    """The first word of all names in this test's store."""
    return redis_url.rpartition("=")[2]


@pytest.fixture(scope="module")
def own() -> Iterator[servers.Redis]:
    """A server that may be flushed and killed."""
    server = servers.own_redis(appendonly="yes", appendfsync="always")
    yield server
    server.close()


# names


@pytest.mark.parametrize(
    ("path", "key", "name"),
    [
        ((), "user:1", b"kv::user:1"),
        (("tenant1",), "k", b"kv:tenant1:k"),
        (("tenant1", "a:b"), "user:1", b"kv:tenant1/a%3Ab:user:1"),
        (("50%", "/é"), "100%/:é", "kv:50%25/%2Fé:100%/:é".encode()),
        (("%3A",), ":", b"kv:%253A::"),
    ],
)
def test_names_can_be_read_by_people(path: tuple[str, ...], key: str, name: bytes) -> None:
    assert Names("kv", path).of(key) == name
    with pytest.raises(kv.InvalidKey):
        Names("kv", path).of("")


words = st.text(st.sampled_from("a:/%23AF5*é🌍 \\"), min_size=1, max_size=6)
paths = st.lists(words, max_size=3).map(tuple)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(paths, words, paths, words)
@example((), "a:b", ("a",), "b")
@example(("a/b",), "k", ("a", "b"), "k")
@example(("a%2Fb",), "k", ("a/b",), "k")
@example(("a",), "b:k", ("a:b",), "k")
def test_no_two_entries_have_one_name_and_every_name_tells_its_entry(
    path: tuple[str, ...], key: str, other: tuple[str, ...], other_key: str
) -> None:
    names, others = Names("kv", path), Names("kv", other)
    name = names.of(key)
    assert (name == others.of(other_key)) == ((path, key) == (other, other_key))
    assert names.many([key]) == [name]
    assert is_entry("kv", name)
    # what a listing of the other namespace takes, and for which
    assert name.startswith(others.head.encode()) == (path == other)
    assert names.key(name) == key
    below = path[: len(other)] == other and len(path) > len(other)
    child = others.child(name) if name.startswith(others.below.encode()) else None
    assert child == (path[len(other)] if below else None)


@both
def test_keys_and_namespaces_that_are_globs_of_redis_are_themselves(opens: Opens, redis_url: str) -> None:
    globs = ["*", "**", "?", "[a]", "[^a]", "[", "]", "^", "a*b", "a\\*b", "\\", "\\*", "a", "a-z", "[a-z]", "{a}"]

    async def body(store: kv.AsyncStore) -> None:
        for name in globs:
            await store.set(name, name.encode())
            await store.namespace(name).set("k", name.encode())
        for name in globs:
            assert await store.keys(name) == sorted(key for key in globs if key.startswith(name))
            assert [entry async for entry in store.namespace(name).scan()] == [("k", name.encode())]
        assert await store.namespaces() == sorted(globs)
        assert await store.namespace("*").clear() == 1
        assert await store.clear("*") == 2
        assert await store.namespaces() == sorted({*globs} - {"*"})
        assert await store.keys() == sorted({*globs} - {"*", "**"})

    run(opens(redis_url), body)


@pytest.mark.parametrize("prefix", ["", ":", "a:b", "x" * 256, "é" * 128, "\n", "\x7f", "\ud800", 42, b"kv", None])
@both
def test_a_prefix_that_is_none_is_refused_before_anything_is_asked(opens: Opens, prefix: object) -> None:
    with pytest.raises(kv.ConfigError, match="prefix"):
        opens("redis://nowhere.invalid", prefix=prefix)


@both
def test_two_prefixes_never_see_each_other(opens: Opens, redis_url: str, prefix: str) -> None:
    prefixes = [prefix, prefix + "a", prefix + "*", prefix + "/", prefix + "%3A", "*", "é" * 127]

    async def body(store: kv.AsyncStore) -> None:
        async def fill(opened: kv.AsyncStore) -> None:
            await opened.set("k", b"v")
            await opened.namespace("n").set("k", b"v")

        async def clear(opened: kv.AsyncStore) -> None:
            assert (await opened.keys(), await opened.namespaces(), await opened.verify()) == (["k"], ["n"], [])
            assert (await opened.clear(), await opened.namespace("n").clear(), await opened.count()) == (1, 1, 0)

        for what in (fill, clear):
            for name in prefixes:
                await asyncio.to_thread(run, opens(redis_url, prefix=name), what)
        assert await store.keys() == []

    run(opens(redis_url), body)


# what else lies in the database


@both
def test_what_another_program_keeps_under_such_names_is_no_entry(
    opens: Opens, redis_url: str, prefix: str, redis_admin: Redis
) -> None:
    head, call = prefix.encode(), cast("Any", redis_admin).execute_command
    strings = [
        *(head, head + b":", head + b":foo", head + b"x::a", head + b"::", head + b":n:", head + b"::a\xff"),
        *(head + b"::a\n", head + b"::\xc2\x80", head + b":n\x00:k", head + b":\xff:k", head + b"::" + b"k" * 2049),
        *(head + b":a%3a:k", head + b":a%3A", head + b":/:k", head + b":n//m:k", head + b":n/:k", head + b":%:k"),
        *(head + b":" + b"n" * 256 + b":k", head + b":" + b"/".join([b"n" * 250] * 5) + b":k"),
    ]
    others: dict[bytes, tuple[Any, ...]] = {
        b"hash": ("HSET", "f", "v"),
        b"list": ("RPUSH", "v"),
        b"set": ("SADD", "v"),
        b"zset": ("ZADD", 1, "v"),
        b"stream": ("XADD", "*", "f", "v"),
    }
    try:
        for name in strings:
            redis_admin.set(name, b"theirs")
        for kind, (put, *what) in others.items():
            call(put, head + b"::" + kind, *what)
            call(put, head + b":" + kind + b":k", *what)

        async def body(store: kv.AsyncStore) -> None:
            await store.set("k", b"ours")
            await store.namespace("n").set("k", b"ours")
            before = {name: redis_admin.dump(name) for name in redis_admin.scan_iter(f"{prefix}*", count=10_000)}
            assert await store.keys() == ["k"]
            assert await store.count() == (await store.stats()).keys == 1
            assert [entry async for entry in store.scan()] == [("k", b"ours")]
            assert await store.namespaces() == ["n"]
            assert await store.namespace("n").namespaces() == []
            assert len(await store.verify()) == len(strings) - 2 + 2 * len(others)  # two have another first word
            assert before == {
                name: redis_admin.dump(name) for name in redis_admin.scan_iter(f"{prefix}*", count=10_000)
            }
            assert (await store.clear(), await store.namespace("n").clear()) == (1, 1)
            left = {*redis_admin.scan_iter(f"{prefix}*", count=10_000)}
            assert {*strings} <= left
            assert left == {*before} - {head + b"::k", head + b":n:k"}

        run(opens(redis_url), body)
    finally:
        redis_admin.delete(*strings)


@both
def test_what_is_no_string_under_a_key_s_name_is_corrupt_and_left_alone(
    opens: Opens, redis_url: str, prefix: str, redis_admin: Redis
) -> None:
    redis_admin.hset(f"{prefix}::k", "field", "v")
    before = redis_admin.dump(f"{prefix}::k")

    async def body(store: kv.AsyncStore) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: store.get("k"),
            lambda: store.size("k"),
            lambda: store.pop("k"),
            lambda: store.increment("k"),
            lambda: store.increment("k", ttl=LONG),
            lambda: store.update("k", lambda _: b"v"),
            lambda: store.update_many(["a", "k"], lambda _: {"a": b"v", "k": b"v"}),
            lambda: store.compare_and_set("k", None, b"v"),
            lambda: store.compare_and_set("k", b"v", None),
        ]
        for call in calls:
            with pytest.raises(kv.CorruptData, match=f"{prefix}::k") as caught:
                await call()
            assert caught.value.__cause__ is not None
        assert not await store.add("k", b"v")
        assert await store.get_many(["k"]) == {}
        (line,) = await store.verify()
        assert f"{prefix}::k" in line
        assert "hash" in line
        assert redis_admin.dump(f"{prefix}::k") == before
        assert await store.keys() == []

    run(opens(redis_url), body)


# plain strings


@both
def test_values_are_plain_strings_with_deadlines_of_redis(
    opens: Opens, redis_url: str, prefix: str, redis_admin: Redis
) -> None:
    def left(key: str) -> int:
        ms: Any = redis_admin.pttl(f"{prefix}::{key}")
        return int(ms)

    async def body(store: kv.AsyncStore) -> None:
        await store.set("k", b"\x00\xff\r\n")
        assert redis_admin.get(f"{prefix}::k") == b"\x00\xff\r\n"
        assert left("k") == -1
        writes: dict[str, Write] = {
            "set": lambda s: s.set("k", b"1", ttl=LONG),
            "set_many": lambda s: s.set_many({"k": b"1", "l": b"2"}, ttl=LONG),
            "add": lambda s: s.add("k", b"1", ttl=LONG),
            "update": lambda s: s.update("k", lambda _: b"1", ttl=LONG),
            "update of a new one": lambda s: s.update("k", lambda _: b"1", ttl_if_new=LONG),
            "increment": lambda s: s.increment("k", ttl=LONG),
            "increment of a new one": lambda s: s.increment("k", ttl_if_new=LONG),
            "compare_and_set": lambda s: s.compare_and_set("k", None, b"1", ttl=LONG),
        }
        for what, write in writes.items():
            await store.delete("k")
            await write(store)
            assert redis_admin.get(f"{prefix}::k") == b"1", what
            assert LONG * 500 < left("k") <= LONG * 1000, what
        assert left("l") > 0
        await store.expire("k", math.inf)
        assert left("k") == -1
        await store.expire("k", LONG)
        assert await store.persist("k")
        assert left("k") == -1
        await store.set("k", b"v", ttl=LONG)
        await store.set("k", b"v")
        assert left("k") == -1

    run(opens(redis_url), body)


@both
def test_what_another_client_sets_under_a_key_s_name_is_an_entry(
    opens: Opens, redis_url: str, prefix: str, redis_admin: Redis
) -> None:
    redis_admin.set(f"{prefix}:n:k", "41", ex=100)
    redis_admin.append(f"{prefix}::bits", "")
    redis_admin.setbit(f"{prefix}::bits", 7, 1)

    async def body(store: kv.AsyncStore) -> None:
        inside = store.namespace("n")
        assert await store.namespaces() == ["n"]
        assert [entry async for entry in inside.scan()] == [("k", b"41")]
        assert 0 < (await inside.ttl("k") or 0) <= 100
        assert await inside.increment("k") == 42
        assert redis_admin.get(f"{prefix}:n:k") == b"42"
        assert await store.get("bits") == b"\x01"

    run(opens(redis_url), body)


TOP = 2**63 - 1


@pytest.mark.parametrize("ages", [{}, {"ttl": LONG}, {"ttl": None}, {"ttl_if_new": LONG}], ids=str)
@both
def test_increment_is_exact_to_the_edges_of_64_bits(
    opens: Opens, redis_url: str, prefix: str, redis_admin: Redis, ages: dict[str, Any]
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        for start, amount in [
            *((2**53, 1), (-(2**53), -1), (2**62, 2**62 - 1), (TOP - 1, 1), (-TOP, -1), (TOP, 0)),
            *((-1, -TOP), (TOP, -TOP), (-TOP - 1, TOP), (TOP, -TOP - 1)),
        ]:
            await store.set("k", b"%d" % start, ttl=LONG)
            assert await store.increment("k", amount, **ages) == start + amount
            assert await store.get("k") == b"%d" % (start + amount)
            assert (await store.ttl("k") == math.inf) == (ages == {"ttl": None})
            await store.delete("k")
            assert await store.increment("k", amount, **ages) == amount
        for start, amount in [(TOP, 1), (-TOP - 1, -1), (1, TOP), (-1, -TOP - 1), (-TOP - 1, -TOP - 1)]:
            await store.set("k", b"%d" % start)
            with pytest.raises(kv.IntegerOverflow):
                await store.increment("k", amount, **ages)
            assert await store.get("k") == b"%d" % start
            assert redis_admin.pttl(f"{prefix}::k") == -1
        for text in (b"042", b"+1", b" 1", b"1 ", b"-0", b"", b"1e3", b"1.0", b"%d" % (TOP + 1), b"\xd9\xa1"):
            await store.set("k", text)
            with pytest.raises(kv.NotAnInteger):
                await store.increment("k", **ages)
            assert await store.get("k") == text
            assert redis_admin.pttl(f"{prefix}::k") == -1

    run(opens(redis_url), body)


@both
def test_a_value_too_large_is_refused(opens: Opens, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv.backends.redis.refusals.MAX_VALUE", 1_000)
    big = b"v" * 1_001

    async def body(store: kv.AsyncStore) -> None:
        await store.set("k", b"v" * 1_000)
        writes: list[Callable[[], Any]] = [
            lambda: store.set("k", big),
            lambda: store.set_many({"a": b"1", "k": big}),
            lambda: store.add("new", big),
            lambda: store.update("k", lambda _: big),
            lambda: store.update_many(["k", "l"], lambda _: {"k": big}),
            lambda: store.compare_and_set("k", b"v" * 1_000, big),
        ]
        for write in writes:
            with pytest.raises(kv.ValueTooLarge, match="1,001 bytes"):
                await write()
        assert [entry async for entry in store.scan()] == [("k", b"v" * 1_000)]

    run(opens(redis_url), body)


# scripts


@both
def test_scripts_that_the_server_has_forgotten_are_sent_again(opens: Opens, own: servers.Redis) -> None:
    calls: dict[str, Write] = {
        "set_many": lambda s: s.set_many({"a": b"1", "b": b"2"}, ttl=LONG),
        "size": lambda s: s.size("a"),
        "expire": lambda s: s.expire("a", math.inf),
        "update": lambda s: s.update("a", lambda value: b"%d" % (int(value or 0) + 1)),
        "update_many": lambda s: s.update_many(["a", "b"], lambda found: {**found, "b": b"3"}),
        "compare_and_set": lambda s: s.compare_and_set("a", b"2", b"5"),
        "increment": lambda s: s.increment("a", 2, ttl=LONG),
    }
    answers = [None, 1, True, b"2", {"a": b"2", "b": b"3"}, True, 7]

    async def body(store: kv.AsyncStore) -> None:
        def restart() -> None:
            own.kill()
            own.start()

        for forget in (lambda: own.call("SCRIPT", "FLUSH"), restart, lambda: None):
            for call, answer in zip(calls.values(), answers, strict=True):
                forget()
                assert await call(store) == answer

        def fn(value: bytes | None) -> bytes:
            own.call("SCRIPT", "FLUSH")
            return (value or b"") + b"!"

        assert await store.update("a", fn) == b"7!"
        assert await store.clear() == 2

    run(opens(own.url), body)


@both
def test_a_store_goes_on_where_somebody_else_has_flushed_everything(opens: Opens, own: servers.Redis) -> None:
    async def body(store: kv.AsyncStore) -> None:
        def fn(value: bytes | None) -> bytes:
            seen.append(value)
            if len(seen) == 1:
                own.call("FLUSHALL")
            return b"new"

        for _ in range(2):
            seen: list[bytes | None] = []
            await store.set_many({"a": b"1", "b": b"2"})
            assert await store.update("a", fn, ttl_if_new=LONG) == b"new"
            assert seen == [b"1", None]
            assert await store.keys() == ["a"]
            assert await store.ttl("a") != math.inf
        await store.clear()

    run(opens(own.url), body)


# updates


def test_updates_of_one_key_by_threads_tasks_and_processes_lose_nothing(redis_url: str) -> None:
    code = """
        import sys, kv
        with kv.open(sys.argv[1]) as store:
            for _ in range(50):
                store.update("n", lambda value: b"%d" % (int(value or 0) + 1), ttl_if_new=1000)
        """

    def plus(value: bytes | None) -> bytes:
        return b"%d" % (int(value or 0) + 1)

    async def tasks() -> None:
        async with kv.open_async(redis_url) as store:

            async def work() -> None:
                for _ in range(50):
                    await store.update("n", plus, ttl_if_new=LONG)

            await asyncio.gather(*(work() for _ in range(3)))

    with kv.open(redis_url) as store:

        def work() -> None:
            for _ in range(50):
                store.update("n", plus, ttl_if_new=LONG)

        done = in_threads(
            *[lambda: python(code, redis_url)] * 2, *[work] * 3, lambda: bounded(tasks, 60), lambda: store.get("other")
        )
        assert done == ["", "", None, None, None, None, None]
        assert store.get("n") == b"400"
        assert store.ttl("n") != math.inf


@both
def test_a_function_that_is_always_overtaken_ends_as_a_conflict(opens: Opens, redis_url: str) -> None:
    with kv.open(redis_url) as other:

        async def body(store: kv.AsyncStore) -> None:
            await store.set("k", b"0")
            calls: list[Callable[[Any], Any]] = [
                lambda fn: store.update("k", fn),
                lambda fn: store.update_many(["a", "k"], lambda _: {"k": fn(None)}),
            ]
            for call in calls:
                with pytest.raises(kv.Conflict, match="lock_timeout"):
                    await call(lambda _: b"mine%d" % other.increment("k"))
            assert b"mine" not in (await store.get("k") or b"")
            assert await store.update("k", lambda _: b"mine") == b"mine"

        run(opens(redis_url, lock_timeout=0.1), body)
