"""How cost grows with the number of entries: every operation on stores of thousands to millions, in turn, so that what is
flat shows as flat on any machine. With what an entry takes (`footprint.py`) it goes to `results/growth.json`, for `report`."""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from rich.table import Table

import kv

from . import footprint, results
from .footprint import key_of, shuffled
from .harness import console

sys.path.append(str(Path(__file__).parents[1] / "tests"))

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

RESULTS = Path(__file__).parent / "results" / "growth.json"
URLS = {
    "memory": "memory://?cleanup_interval=off",
    "sqlite": "sqlite:///{folder}/{entries}.db?durability=normal",
    "lmdb": "lmdb:///{folder}/{entries}.lmdb?durability=normal",
    "postgres": "{postgres}?table=kv_{entries}",
    "redis": "{redis}/{number}",
}
"""The stores, each at several sizes, the `number`-th of which has so many `entries`."""
FIRST_PAGE = "first page after 10,000 changes"
NOTHING_TO_TIME = {
    "memory": ("open",),  # a new store is empty
    "sqlite": (FIRST_PAGE,),  # no page leans on the one before
    "lmdb": (FIRST_PAGE,),
    "postgres": (FIRST_PAGE,),
    "redis": (FIRST_PAGE, "cleanup of nothing", "cleanup of 10,000"),  # the server removes what has expired
}
EXPIRED = 10_000
"""So many entries have expired when a cleanup is timed."""
DAY = 86_400
SLICE = 0.05
"""Seconds that one operation on one store may take in a round, or one call where that is more."""
MOST_CALLS = 500
VALUES = cycle([os.urandom(128) for _ in range(1_009)])
"""A new value each time: SQLite does not write a row again that is the same."""


@dataclass
class Operation:
    """Something to time, which takes one argument."""

    name: str
    call: Callable[[Any], object]
    arguments: Callable[[int], Iterable[object]]
    """Gives so many, new ones each time: what was asked for a moment ago lies in some cache."""
    number: int = 0
    """Of calls in a round, or what one call is divided by; 0: what fits into a slice of time."""
    micros: list[float] = field(default_factory=list)

    def once(self) -> None:
        """Take one round's time."""
        if not self.number:
            self._timed([*self.arguments(1)])  # a warm-up
            taken = self._timed([*self.arguments(1)])
            self.number = max(1, min(MOST_CALLS, int(SLICE / taken)))
        self.micros.append(self._timed([*self.arguments(self.number)]) / self.number * 1e6)

    def _timed(self, arguments: list[object]) -> float:
        start = perf_counter()
        for argument in arguments:
            self.call(argument)
        return perf_counter() - start


def run(*, quick: bool) -> bool:
    """Measure, show and write down."""
    sizes = (1_000, 10_000, 100_000) if quick else (10_000, 100_000, 1_000_000, 5_000_000)
    return measure(URLS, sizes, rounds=5 if quick else 7, footprints=100_000 if quick else 1_000_000)


def measure(urls: Mapping[str, str], sizes: tuple[int, ...], rounds: int, footprints: int) -> bool:
    """Measure the stores at these URLS."""
    import servers

    settings = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "512MB", "max_wal_size": "8GB"}
    found: dict[str, Any] = {"about": about(settings, rounds), "records": [], "footprint": []}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        where = {"folder": folder}
        for name, start in (
            ("postgres", lambda: servers.own_postgres(**settings)),
            ("redis", lambda: servers.own_redis(databases="64")),
        ):
            server = start()
            stack.callback(server.close)
            where[name] = server.url.removesuffix("/0")
            with kv.open(server.url) as store:
                found["about"]["versions"][f"{name} server"] = store.stats().version
        for subject, url in urls.items():
            found["records"] += growth(subject, url, where, sizes, rounds)
        found["footprint"] = footprint.measure({s: u for s, u in urls.items() if s != "memory"}, where, footprints)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")
    return True


def about(settings: dict[str, str], rounds: int) -> dict[str, Any]:
    """Give what there is to know about this run."""
    return results.about(
        {
            "value_bytes": 128,
            "rounds": rounds,
            "sqlite": "durability=normal",
            "postgres": ", ".join(f"{name}={value}" for name, value in settings.items()),
            "redis": "save off, appendonly off",
        }
    )


def growth(
    subject: str, url: str, where: Mapping[str, str], sizes: tuple[int, ...], rounds: int
) -> list[dict[str, Any]]:
    """Time every operation on the store at all sizes."""
    with ExitStack() as stack:
        stores: dict[int, list[Operation]] = {}
        for number, entries in enumerate(sizes):
            here = url.format(**where, entries=entries, number=number)
            store = stack.enter_context(kv.open(here))
            start = perf_counter()
            fill(store, entries)
            console.print(f"{subject}: {entries:,} entries stored in {perf_counter() - start:.1f} s")
            every = operations(store, here, entries)
            stores[entries] = [it for it in every if it.name not in NOTHING_TO_TIME.get(subject, ())]
        gc.collect()
        gc.disable()
        for turn in range(rounds):
            for same in zip(*stores.values(), strict=True):
                for operation in same if turn % 2 else reversed(same):
                    operation.once()
        gc.enable()
    show(subject, stores)
    return [
        {
            "subject": subject,
            "entries": entries,
            "operation": operation.name,
            "micros": [round(micros, 3) for micros in operation.micros],
        }
        for entries, several in stores.items()
        for operation in several
    ]


def fill(store: kv.Store, entries: int) -> None:
    """Store the entries in no order, every tenth with a deadline that is far."""
    chance = random.Random(entries)
    for some in shuffled(entries):
        for ttl, rest in ((None, range(1, 10)), (DAY, range(1))):
            store.set_many({key_of(n): chance.randbytes(128) for n in some if n % 10 in rest}, ttl=ttl)
    store.set("counter", b"0")
    store.compact()  # as after a night: with statistics, and nothing left over


def operations(store: kv.Store, url: str, entries: int) -> list[Operation]:
    """What is timed on a store of this size."""
    chance = random.Random(entries)

    def some(number: int) -> list[str]:
        return [key_of(chance.randrange(entries)) for _ in range(number)]

    def expired(_: int) -> list[None]:
        gone = {f"{key_of(chance.randrange(entries))}:{n}": b"" for n in range(EXPIRED)}
        store.set_many(gone, ttl=0.001)
        return [None]

    def sweep(_: None) -> None:
        removed = store.cleanup()
        assert removed == EXPIRED, removed

    def opened(key: str) -> None:
        with kv.open(url) as new:
            assert new.get(key) is not None

    return [
        Operation("get", store.get, some),
        Operation("set", lambda key: store.set(key, next(VALUES)), some),
        Operation("increment", lambda _: store.increment("counter"), some),
        Operation("page of a prefix", lambda key: store.keys(key[:12], limit=100), some),
        Operation("page after a key", lambda key: store.keys(after=key, limit=100), some),
        Operation("open", opened, some),
        Operation("cleanup of nothing", lambda _: store.cleanup(), some),
        Operation("cleanup of 10,000", sweep, expired, number=EXPIRED),
        # which memory puts in order first; a page above does not
        Operation(FIRST_PAGE, lambda _: store.keys(limit=100), lambda _: [None], number=1),
    ]


def show(subject: str, stores: Mapping[int, list[Operation]]) -> None:
    """Print the medians, and how many times as long it takes where there is most."""
    table = Table(title=f"{subject}: µs by entries", title_justify="left", title_style="bold")
    for column in ("", *(f"{entries:,}" for entries in stores), "last / first"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=True)
    for every in zip(*stores.values(), strict=True):
        medians = [statistics.median(operation.micros) for operation in every]
        grown = statistics.median(b / a for a, b in zip(every[0].micros, every[-1].micros, strict=True))
        table.add_row(every[0].name, *(f"{median:,.2f}" for median in medians), f"{grown:.2f}")
    console.print(table)
