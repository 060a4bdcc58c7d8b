"""`kv demo`: the Unicode character database in a store, looked up, listed, counted by several processes, expired."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import unicodedata
from collections import Counter
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from kv.errors import KVError

from .output import progress_bar, write
from .where import Place, at_place, url_argument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kv.store import Store
    from kv.transfer import Progress

NAMESPACE = "demo"
WORKERS = 4
BATCH = 1_000
"""Entries that are stored together."""
CHUNK = 32
"""Characters that a worker counts before it adds what it has counted."""
TTLS = (1.0, 4.0, 16.0)
"""Seconds; the next one where the store was too slow to show the entries before the one before had passed."""
LATE = 30
"""Seconds after its deadline in which an entry must be seen to expire."""

# named by rule and not one by one: there are 100,000 of them
_LEFT_OUT = ("CJK UNIFIED IDEOGRAPH-", "CJK COMPATIBILITY IDEOGRAPH-", "HANGUL SYLLABLE ", "TANGUT IDEOGRAPH-")

T = TypeVar("T")


class Step(NamedTuple):
    """A row of the table."""

    step: str
    what: str
    done: int
    seconds: float


class Wrong(click.ClickException):
    """The store has not done what it should."""

    def __init__(self, what: str) -> None:
        super().__init__(f"demo: {what}")


def characters() -> dict[str, dict[str, Any]]:
    """Give what `unicodedata` knows of each named character, by code point as in U+0041."""
    found = {}
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        name = unicodedata.name(char, "")
        if not name or name.startswith(_LEFT_OUT):
            continue
        about: dict[str, Any] = {
            "char": char,
            "name": name,
            "category": unicodedata.category(char),
            "bidirectional": unicodedata.bidirectional(char),
            "combining": unicodedata.combining(char),
            "mirrored": bool(unicodedata.mirrored(char)),
            "width": unicodedata.east_asian_width(char),
        }
        if decomposition := unicodedata.decomposition(char):
            about["decomposition"] = decomposition
        if (decimal := unicodedata.decimal(char, None)) is not None:
            about["decimal"] = decimal
        if (numeric := unicodedata.numeric(char, None)) is not None:
            about["numeric"] = numeric
        found[f"{code:04X}"] = about
    return found


class Demo:
    """One run: each step does something, checks it, and adds a row to the table."""

    def __init__(self, place: Place, store: Store, progress: Progress | None) -> None:
        self.place = place
        self.store = store
        self.progress = progress
        self.steps: list[Step] = []
        self.known: dict[str, dict[str, Any]] = {}
        self.shared = True

    def run(self) -> None:
        """Do all of it."""
        self._measured("clear", "left by an earlier demo", self.store.clear)
        self.known = characters()
        self._load()
        self._look_up()
        self._list()
        self._count()
        self._expire()
        self._measured("clean up", "expired, from the whole store", self.store.cleanup)

    def _measured(self, step: str, what: str, work: Callable[[], int]) -> None:
        self._say(step)
        began = time.monotonic()
        done = work()
        self.steps.append(Step(step, what, done, time.monotonic() - began))

    def _say(self, step: str) -> None:
        if self.progress:
            self.progress(step, 0, None)

    def _load(self) -> None:
        entries = {f"char:{code}": json.dumps(about).encode() for code, about in self.known.items()}
        entries |= {f"name:{about['name']}": code.encode() for code, about in self.known.items()}
        items = sorted(entries.items())

        def load() -> int:
            for batch in _batches(iter(items), BATCH):
                self.store.set_many(batch)
                if self.progress:
                    self.progress("load", len(batch), len(items))
            return len(items)

        self._measured("load", "characters, and an index of names", load)
        _check("the store counts", self.store.count(), len(items))

    def _look_up(self) -> None:
        codes = list(self.known)[:: max(1, len(self.known) // 1_000)]

        def look_up() -> int:
            for code in codes:
                name = self.known[code]["name"]
                _check(f"the code of {name!r}", self.store.get(f"name:{name}"), code.encode())
                found = json.loads(self.store.get(f"char:{code}", b"{}"))
                _check(f"the character {code}", found, self.known[code])
            _check("a character that is not there", self.store.get("char:nowhere"), None)
            return 2 * len(codes) + 1

        self._measured("get", "by name, then by code", look_up)

    def _list(self) -> None:
        emoji = sorted(f"char:{code}" for code in self.known if code.startswith("1F6"))
        snow = sorted(f"name:{about['name']}" for about in self.known.values() if "SNOW" in about["name"])

        def by_prefix() -> int:
            _check("the keys by prefix", self.store.keys("char:1F6"), emoji)
            return len(emoji)

        def by_glob() -> int:
            _check("the keys by glob", self.store.keys("name:", match="*SNOW*"), snow)
            return len(snow)

        self._measured("list", "keys by prefix char:1F6", by_prefix)
        self._measured("list", "keys by glob name: *SNOW*", by_glob)

    def _count(self) -> None:
        self._say("increment")
        began = time.monotonic()
        done = _in_processes(self.place)
        self.shared = done is not None
        who = "processes"
        if done is None:
            who, began = "threads", time.monotonic()
            done = _in_threads(self.store)
        seconds = time.monotonic() - began
        self.steps.append(Step("increment", f"{WORKERS} {who} at once, by category", done, seconds))
        sums = {key.removeprefix("count:"): int(value) for key, value in self.store.scan("count:")}
        _check("the counted sums", sums, dict(Counter(about["category"] for about in self.known.values())))

    def _expire(self) -> None:
        keys = [f"soon:{n}" for n in range(20)]
        self._say("expire")
        for ttl in TTLS:
            began = time.monotonic()
            self.store.set_many(dict.fromkeys(keys, b"here today"), ttl=ttl)
            left = [self.store.ttl(key) for key in keys]
            if None not in left:
                break
            if time.monotonic() - began < ttl:
                raise Wrong(f"an entry with a ttl of {ttl:g} s was missing before that")
        else:
            raise Wrong(f"it took {TTLS[-1]:g} s to store {len(keys)} entries and to read their ttl")
        for seconds in left:
            if seconds is None or not 0 < seconds <= ttl:
                raise Wrong(f"an entry with a ttl of {ttl:g} s says that it has {seconds} s left")
        while any(self.store.exists(key) for key in keys):
            if time.monotonic() - began > ttl + LATE:
                raise Wrong(f"an entry with a ttl of {ttl:g} s was still there {LATE} s after it")
            time.sleep(0.01)
        _check("an expired value", self.store.get_many(keys), {})
        what = f"ttl of {ttl:g} s: there, then gone"
        self.steps.append(Step("expire", what, len(keys), time.monotonic() - began))


def _check(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise Wrong(f"{what} should be {_short(expected)}, and is {_short(found)}")


def _short(thing: object) -> str:
    text = repr(thing)
    return text if len(text) <= 100 else text[:97] + "..."


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch


def count_categories(store: Store, number: int) -> int:
    """Count the characters of every WORKERS-th chunk, and add to the counters. Gives how many increments that took."""
    increments = 0
    for index, chunk in enumerate(_batches(iter(store.keys("char:")), CHUNK)):
        if index % WORKERS == number:
            found = store.get_many(chunk).values()
            for category, amount in Counter(json.loads(value)["category"] for value in found).items():
                store.increment(f"count:{category}", amount)
                increments += 1
    return increments


def _work(place: Place, number: int, results: Any) -> None:
    """What a process does: open the store, count, and tell; None where it does not see what the others have stored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    try:
        with place.opened() as store:
            results.put(count_categories(store, number) if store.exists("char:0041") else None)
    except (KVError, OSError) as e:
        results.put(f"{type(e).__name__}: {e}")


def _in_processes(place: Place) -> int | None:
    """Count in several processes. Gives how many increments; None where each process sees a store of its own."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.SimpleQueue()
    workers = [context.Process(target=_work, args=(place, number, results), daemon=True) for number in range(WORKERS)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise Wrong(f"a counting process ended with {[worker.exitcode for worker in workers]}")
        done = [results.get() for _ in workers]
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
    return _sum(done)


def _in_threads(store: Store) -> int:
    done: list[Any] = []

    def work(number: int) -> None:
        try:
            done.append(count_categories(store, number))
        except KVError as e:
            done.append(str(e))

    threads = [threading.Thread(target=partial(work, number)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _sum(done) or 0


def _sum(done: list[Any]) -> int | None:
    for answer in done:
        if isinstance(answer, str):
            raise Wrong(f"a counting worker failed: {answer}")
    return None if None in done else sum(done)


def _show(steps: list[Step]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("step", style="bold")
    table.add_column("what")
    for heading in ("count", "seconds", "per second"):
        table.add_column(heading, justify="right", no_wrap=True)
    for step, what, done, seconds in steps:
        rate = f"{done / seconds:,.0f}" if done and seconds > 0 and step != "expire" else ""
        table.add_row(step, what, f"{done:,}", f"{seconds:.2f}", rate)
    console = Console(highlight=False)
    console.width = max(console.width, 80) if sys.stdout.isatty() else 80  # in less, its columns could not be read
    console.print(table)


def _program() -> str:
    """Give what to type for this program: in an environment that is not active, `kv` alone would not be found."""
    called = sys.argv[0]
    if os.path.basename(called) != "kv" or shutil.which("kv") == os.path.abspath(called):
        return "kv"
    return shlex.quote(os.path.relpath(called))


def _next(place: Place, shared: bool) -> str:
    """Say what to try on the data that is left."""
    if not shared:
        return f"{place.shown} ends with this process. To keep the data: kv demo sqlite:///demo.db\n"
    options = "".join(f" --namespace {shlex.quote(name)}" for name in place.names)
    before = ""
    if place.origin == "given":
        if place.shown == place.url:
            options = f" --url {shlex.quote(place.url)}{options}"
        else:  # it has a password, which is not for screens
            before = f" (with KV_URL set to {place.shown})"
    kv = _program()
    commands = (
        f"{kv}{options} get name:SNOWMAN",
        f"{kv}{options} get char:2603",
        f"{kv}{options} keys name: --match '*SNOW*'",
        f"{kv}{options} scan count:",
        f"{kv}{options} export -o demo.jsonl",
    )
    return f"Try next{before}:\n" + "".join(f"  {command}\n" for command in commands)


@click.command()
@url_argument
@at_place
def demo(place: Place) -> None:
    """Load the Unicode characters, use them, show how fast.

    Looks up, lists, counts from several processes at once, and shows entries expire. Works in the namespace "demo",
    which it clears first, and leaves its data there.

    \b
      kv demo sqlite:///demo.db
    """
    place = place.inside(NAMESPACE)
    with place.opened() as store, progress_bar() as progress:
        run = Demo(place, store, progress)
        run.run()
        disk = store.stats().disk_bytes
    on_disk = "" if disk is None else f", {disk / 1e6:,.1f} MB on disk"
    write(f"Unicode {unicodedata.unidata_version} in {place.shown}, namespace {' / '.join(place.names)}{on_disk}\n")
    _show(run.steps)
    write(_next(place, run.shared))
