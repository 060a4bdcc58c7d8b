"""What a layer costs: typed values, wrappers and adapters, each beside the calls on the bare store that it needs."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import kv
from kv import adapters, wrappers

from .harness import Case, compare

if TYPE_CHECKING:
    from collections.abc import Callable

VALUE = os.urandom(100)
TEXT = b"a page that compresses well, as most pages do. " * 40
PLAIN = {"name": "Ada", "mail": "ada@example.org", "visits": 42, "tags": ["a", "b"]}
SECRET = base64.b64encode(bytes(range(32))).decode()


@dataclass
class User:
    """What applications store."""

    name: str
    mail: str
    visits: int
    tags: list[str]


ADA = User("Ada", "ada@example.org", 42, ["a", "b"])


def run(*, quick: bool) -> bool:
    """Compare, and give whether every target was met."""
    rounds = 7 if quick else 25
    with kv.MemoryStore() as store:
        met = typed(store, rounds)
        met &= wrapped(store, rounds)
        met &= adapted(store, rounds)
    return met & asyncio.run(awaited(rounds))


def times(number: int, call: Callable[[], object]) -> Callable[[], None]:
    """Give what makes a call so often."""

    def loop() -> None:
        for _ in range(number):
            call()

    return loop


def case(name: str, call: Callable[[], object], most: float | None = None, *, number: int = 2_000) -> Case:
    return Case(name, times(number, call), number, most)


def typed(store: kv.Store, rounds: int) -> bool:
    """Typed values beside `json` by hand."""
    plain, users, pack = kv.typed(store), kv.typed(store, User), kv.typed(store, User, codec="msgpack")
    plain.set("plain", PLAIN)
    users.set("user", ADA)
    pack.set("packed", ADA)

    def write_by_hand() -> None:
        store.set("hand", json.dumps(PLAIN, separators=(",", ":")).encode())

    write_by_hand()
    met = compare(
        "typed: get from memory",
        case("store.get and json.loads", lambda: json.loads(store.get("hand") or b"")),
        case("typed(store).get of a dict", lambda: plain.get("plain")),
        case("typed(store, User).get of a dataclass", lambda: users.get("user")),
        case("the same in MessagePack", lambda: pack.get("packed")),
        rounds=rounds,
    )
    return met & compare(
        "typed: set in memory",
        case("json.dumps and store.set", write_by_hand),
        case("typed(store).set of a dict", lambda: plain.set("plain", PLAIN)),
        case("typed(store, User).set of a dataclass", lambda: users.set("user", ADA)),
        case("the same in MessagePack", lambda: pack.set("packed", ADA)),
        case("typed(store).increment", lambda: plain.increment("n")),
        rounds=rounds,
    )


def wrapped(store: kv.Store, rounds: int) -> bool:
    """Wrappers around memory, whose own calls take less than a microsecond."""
    around: dict[str, Any] = {
        "Encrypted": wrappers.Encrypted(store.namespace("encrypted"), SECRET),
        "Compressed, too short for it": wrappers.Compressed(store.namespace("compressed")),
        "NearCache": wrappers.NearCache(store.namespace("near"), ttl=3_600),
        "ReadOnly": wrappers.ReadOnly(store.namespace("bare")),
        "TTLLimits": wrappers.TTLLimits(store.namespace("limits"), default=3_600),
        "Telemetry, nothing recorded": wrappers.Telemetry(store.namespace("telemetry")),
    }
    bare = store.namespace("bare")
    bare.set("k", VALUE)
    entries = {"k": VALUE}
    for name, wrapper in around.items():
        if name != "ReadOnly":
            wrapper.set("k", VALUE)
    pages = wrappers.Compressed(store.namespace("pages"))
    pages.set("k", TEXT)
    met = compare(
        "wrappers: get of 100 bytes from memory",
        case("the bare store", lambda: bare.get("k")),
        case("a dict", lambda: entries.get("k")),
        *(case(name, lambda wrapper=wrapper: wrapper.get("k")) for name, wrapper in around.items()),  # type: ignore[misc]
        case(f"Compressed, {len(TEXT):,} bytes", lambda: pages.get("k")),
        rounds=rounds,
    )
    del around["ReadOnly"]
    return met & compare(
        "wrappers: set of 100 bytes in memory",
        case("the bare store", lambda: bare.set("k", VALUE)),
        *(case(name, lambda wrapper=wrapper: wrapper.set("k", VALUE)) for name, wrapper in around.items()),  # type: ignore[misc]
        case(f"Compressed, {len(TEXT):,} bytes", lambda: pages.set("k", TEXT)),
        rounds=rounds,
    )


def adapted(store: kv.Store, rounds: int) -> bool:
    """Adapters beside the calls on the store that do the least of their work."""
    bare = store.namespace("bare")
    bare.set("k", VALUE)
    cache = adapters.Cache(store.namespace("cache"), bytes, ttl=3_600)
    cache.set("k", VALUE)
    sessions = adapters.Sessions(store.namespace("sessions"), dict, idle=3_600)
    id = sessions.create({"cart": 1})
    flags = adapters.Flags(store.namespace("flags"), ttl=3_600)
    flags.set("new", percent=50)
    theme = adapters.Setting("site.theme", "light")
    settings = adapters.Settings(store.namespace("settings"), [theme])
    settings.set(theme, "dark")
    limits = {
        name: adapters.RateLimiter(store.namespace(name), 10**9, 3_600, algorithm=name) for name in ("fixed", "bucket")
    }
    sliding = adapters.RateLimiter(store.namespace("sliding"), 100, 3_600, algorithm="sliding")
    counter = adapters.Counter(store.namespace("counter"), "hits")
    lock = adapters.Lock(store.namespace("locks"), "k")
    queue = adapters.Queue(store.namespace("queues"), "jobs", str)

    def locked() -> None:
        with lock.acquire():
            pass

    def locked_by_hand() -> None:
        bare.add("lock", b"t", ttl=30)
        bare.increment("fence")
        bare.compare_and_set("lock", b"t", None)

    def worked() -> None:
        queue.push("job")
        job = queue.claim()
        assert job is not None
        job.ack()

    def worked_by_hand() -> None:
        bare.set("job", b"job")
        (key,) = bare.keys("job", limit=1)
        bare.update_many([key, "claimed"], lambda found: {"claimed": found[key]})
        bare.delete("claimed")

    met = compare(
        "adapters: what reads, on memory",
        case("store.get", lambda: bare.get("k")),
        case("Cache.get_or_set, a hit", lambda: cache.get_or_set("k", lambda: VALUE)),
        case("Sessions.get, a get and an expire", lambda: sessions.get(id)),
        case("Flags.is_on", lambda: flags.is_on("new", "ada")),
        case("Settings.get", lambda: settings.get(theme)),
        rounds=rounds,
    )
    met &= compare(
        "adapters: what counts, on memory",
        case("store.increment", lambda: bare.increment("n")),
        case("RateLimiter, fixed window", lambda: limits["fixed"].check("ada")),
        case("RateLimiter, token bucket", lambda: limits["bucket"].check("ada")),
        case("RateLimiter, sliding window, denied", lambda: sliding.check("ada")),
        case("Counter.add", counter.add),
        rounds=rounds,
    )
    met &= compare(
        "adapters: a lock taken and given back, on memory",
        case("add, increment, compare_and_set", locked_by_hand),
        case("Lock", locked),
        rounds=rounds,
    )
    return met & compare(
        "adapters: a job pushed, claimed and done, on memory",
        case("set, keys, update_many, delete", worked_by_hand),
        case("Queue", worked),
        rounds=rounds,
    )


async def awaited(rounds: int) -> bool:
    """The async colour, as far as it differs: what a hit costs."""
    async with kv.AsyncMemoryStore() as store:
        near = wrappers.AsyncNearCache(store.namespace("near"), ttl=3_600)
        cache = adapters.AsyncCache(store.namespace("cache"), bytes, ttl=3_600)
        await store.set("k", VALUE)
        await near.set("k", VALUE)
        await cache.set("k", VALUE)

        async def miss() -> bytes:
            return VALUE

        def loop(call: Callable[[], Any]) -> Callable[[], None]:
            async def calls() -> None:
                for _ in range(2_000):
                    await call()

            return lambda: asyncio.run(calls())

        cases = [
            Case("store.get", loop(lambda: store.get("k")), 2_000),
            Case("AsyncNearCache.get", loop(lambda: near.get("k")), 2_000),
            Case("AsyncCache.get_or_set, a hit", loop(lambda: cache.get_or_set("k", miss)), 2_000),
        ]
        return await asyncio.to_thread(compare, "async: get from memory", *cases, rounds=rounds)
