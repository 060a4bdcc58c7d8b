"""Deadlines where none was named, and limits of those that were."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from colours import around, both, run

import kv
from kv import transfer
from kv.wrappers import AsyncTTLLimits, TTLLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[..., Any]


def limited(store: Any, **limits: Any) -> Any:
    return around(store, TTLLimits, AsyncTTLLimits, **limits)


async def lives(store: Any, key: str, seconds: float) -> bool:
    left = await store.ttl(key)
    return bool(left == seconds if math.isinf(seconds) else seconds - 30 < left <= seconds)


STORES: dict[str, Callable[[Any, Any], Any]] = {
    "set": lambda s, ttl: s.set("k", b"1", ttl=ttl),
    "set_many": lambda s, ttl: s.set_many({"k": b"1"}, ttl=ttl),
    "add": lambda s, ttl: s.add("k", b"1", ttl=ttl),
    "update": lambda s, ttl: s.update("k", lambda _: b"1", ttl_if_new=ttl),
    "update with ttl": lambda s, ttl: s.update("k", lambda _: b"1", ttl=ttl),
    "update_many": lambda s, ttl: s.update_many(["k"], lambda _: {"k": b"1"}, ttl_if_new=ttl),
    "increment": lambda s, ttl: s.increment("k", ttl_if_new=ttl),
    "compare_and_set": lambda s, ttl: s.compare_and_set("k", None, b"1", **({} if ttl is None else {"ttl": ttl})),
}


@both
@pytest.mark.parametrize("method", STORES)
def test_what_is_created_lives_as_long_as_it_should(opens: Opens, method: str) -> None:
    async def body(store: Any) -> None:
        limits = limited(store, default=1_000, min=100, max=timedelta(hours=1))
        for ttl, seconds in ((None, 1_000), (2_000, 2_000), (5, 100), (10**6, 3_600), (math.inf, 3_600)):
            await store.delete("k")
            await STORES[method](limits, ttl)
            assert await lives(store, "k", seconds), (ttl, seconds, await store.ttl("k"))

    run(opens("memory://"), body)


@both
def test_what_is_there_keeps_its_deadline_where_nothing_else_is_said(opens: Opens, anywhere: str) -> None:
    async def body(store: Any) -> None:
        limits = limited(store, default=1_000, max=3_600)
        await store.set("k", b"1")
        await limits.increment("k")
        await limits.update("k", lambda value: value)
        assert await limits.compare_and_set("k", b"2", b"3")
        assert await lives(store, "k", math.inf)
        assert await limits.expire("k", None)
        assert await lives(store, "k", 3_600)
        assert await limits.expire("k", 10**6)
        assert await lives(store, "k", 3_600)
        assert await limits.expire("k", 500)
        await limits.increment("k", ttl=200)
        assert await lives(store, "k", 200)

    run(opens(anywhere), body)


@both
def test_nothing_lives_for_ever_where_there_is_a_longest_ttl(opens: Opens) -> None:
    async def body(store: Any) -> None:
        await store.set("k", b"1", ttl=500)
        with pytest.raises(kv.InvalidTTL, match="live 1000 s at most"):
            await limited(store, max=1_000).persist("k")
        assert await lives(store, "k", 500)
        assert await limited(store, default=700).persist("k")  # of no limit
        assert await lives(store, "k", math.inf)

    run(opens("memory://"), body)


@both
def test_a_wrong_ttl_is_still_refused(opens: Opens) -> None:
    async def body(store: Any) -> None:
        limits = limited(store, default=5, min=1, max=9)
        for wrong in (0, -1, math.nan, True, "5"):
            with pytest.raises(kv.InvalidTTL):
                await limits.set("k", b"1", ttl=wrong)
        assert not await store.count()

    run(opens("memory://"), body)


@pytest.mark.parametrize(
    "limits", [{"min": 5, "max": 4}, {"default": 0}, {"default": 9, "max": 8}, {"default": 1, "min": 2}]
)
def test_limits_that_contradict_each_other_are_refused_before_anything_is_opened(
    limits: dict[str, Any], tmp_path: Any
) -> None:
    with kv.MemoryStore() as store, pytest.raises(kv.ConfigError):
        TTLLimits(store, **limits)
    asked = {f"{name}_ttl": value or "-1" for name, value in limits.items()}
    with pytest.raises(kv.ConfigError):
        kv.open(f"sqlite:///{tmp_path}/app.db", **asked)
    assert not [*tmp_path.iterdir()]


def test_entries_that_are_copied_in_are_within_the_limits_too() -> None:
    with kv.MemoryStore() as source, kv.open("memory://?default_ttl=1000&max_ttl=2000") as target:
        source.set("for ever", b"1")
        source.set("long", b"2", ttl=10**6)
        source.set("short", b"3", ttl=50)
        transfer.copy(source, target)
        left = {key: target.ttl(key) or 0 for key in target.keys()}  # noqa: SIM118
        assert 0 < left["short"] < 51 < left["for ever"] < 1_001 < left["long"] < 2_001


def test_a_new_entry_that_shall_never_expire_does_not_where_there_is_no_longest_ttl() -> None:
    with TTLLimits(kv.MemoryStore(), min=0.001) as store:
        store.update("a", lambda _: b"1", ttl=1_000, ttl_if_new=math.inf)
        store.increment("b", ttl=1_000, ttl_if_new=math.inf)
        assert store.ttl("a") == store.ttl("b") == math.inf
