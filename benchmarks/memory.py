"""The memory store beside a dict with an expiry check, in a class as one writes it by hand."""

from __future__ import annotations

import asyncio
import random
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any

import kv

from .harness import Case, compare

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

VALUE = bytes(128)


class ByHand:
    """A dict with an expiry check: the floor."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[bytes, float | None]] = {}

    def get(self, key: str, default: bytes | None = None) -> bytes | None:
        entry = self.entries.get(key)
        if entry is None:
            return default
        value, deadline = entry
        if deadline is not None and monotonic() >= deadline:
            return default
        return value

    def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self.entries[key] = (value, None if ttl is None else monotonic() + ttl)


class AsyncByHand:
    """The same behind `async def`."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[bytes, float | None]] = {}

    async def get(self, key: str, default: bytes | None = None) -> bytes | None:
        entry = self.entries.get(key)
        if entry is None:
            return default
        value, deadline = entry
        if deadline is not None and monotonic() >= deadline:
            return default
        return value

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self.entries[key] = (value, None if ttl is None else monotonic() + ttl)


def run(*, quick: bool) -> bool:
    """Compare, and give whether every target was met."""
    rounds = 7 if quick else 25
    number = 20_000
    keys = [f"user:{i}:profile" for i in range(100_000)]
    asked = random.Random(1).sample(keys, number)
    hand, store, ahand, astore = ByHand(), kv.MemoryStore(), AsyncByHand(), kv.AsyncMemoryStore()
    view = store.namespace("tenant")
    for key in keys:
        hand.set(key, VALUE)
    ahand.entries.update(hand.entries)
    store.set_many(dict.fromkeys(keys, VALUE))
    view.set_many(dict.fromkeys(keys, VALUE))
    asyncio.run(astore.set_many(dict.fromkeys(keys, VALUE)))

    def each(call: Callable[[str], object]) -> Callable[[], None]:
        def loop() -> None:
            for key in asked:
                call(key)

        return loop

    def each_awaited(call: Callable[[str], Awaitable[object]]) -> Callable[[], None]:
        async def loop() -> None:
            for key in asked:
                await call(key)

        return lambda: asyncio.run(loop())

    def case(name: str, call: Callable[[str], object], most: float | None = None) -> Case:
        return Case(name, each(call), number, most)

    cache = ttl_cache(keys)
    gets = [
        case("MemoryStore.get", store.get, 1.3),
        case("MemoryStore.get, in a namespace", view.get),
        *([case("cachetools.TTLCache.get", cache.get)] if cache is not None else []),
    ]
    met = compare("memory: get of 100,000", case("a dict with an expiry check", hand.get), *gets, rounds=rounds)
    met &= compare(
        "memory: async get of 100,000",
        Case("the dict behind async def", each_awaited(ahand.get), number),
        Case("AsyncMemoryStore.get", each_awaited(astore.get), number, 1.3),
        rounds=rounds,
    )
    met &= compare(
        "memory: writes",
        case("a dict with an expiry check, set", lambda key: hand.set(key, VALUE)),
        case("MemoryStore.set", lambda key: store.set(key, VALUE)),
        case("a dict with an expiry check, set ttl", lambda key: hand.set(key, VALUE, 60)),
        case("MemoryStore.set ttl", lambda key: store.set(key, VALUE, ttl=60)),
        *([case("cachetools.TTLCache, set ttl", lambda key: cache.update({key: VALUE}))] if cache is not None else []),
        case("MemoryStore.increment", lambda _: store.increment("counter")),
        case("MemoryStore.update", lambda key: view.update(key, lambda value: value)),
        rounds=rounds,
    )
    few = [f"prefix:{i:03}" for i in range(1_000)]
    store.set_many(dict.fromkeys(few, VALUE))
    store.keys("prefix:")
    met &= compare(
        "memory: list 1,000 keys of 101,000 by their prefix",
        Case(
            "all keys of a dict, filtered and sorted", lambda: sorted(k for k in hand.entries if k[:7] == "user:99"), 1
        ),
        Case("MemoryStore.keys", lambda: store.keys("prefix:"), 1),
        rounds=rounds,
    )
    store.close()
    return met


def ttl_cache(keys: list[str]) -> Any:
    """Give cachetools' cache with the same entries, or None where it is not installed."""
    try:
        cache = import_module("cachetools").TTLCache(2 * len(keys), 3_600)
    except ImportError:
        return None
    cache.update(dict.fromkeys(keys, VALUE))
    return cache
