"""Processes that write until they are killed: each says beforehand what it will do, and afterwards what came of it.

`python crashing.py URL SEED` forks writers as it is told to on its standard input, and kills them so too. Whatever is
said is a line of JSON, shorter than what a pipe takes at once, so that no kill can tear it. `crashes.py` listens.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import sys
import threading
import traceback
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import kv
from kv.testing.suite import lifted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Has = dict[str, "Entry"]

Entry = tuple[str, int | None]
"""What the value is called, and the unit of its deadline. `None`: it has none."""

UNIT = 36_000
"""Seconds. Deadlines are whole multiples, so that each is told from the others, and none comes."""
COUNTER = "shared counter"
ACCOUNTS = [f"account {i}" for i in range(4)]
MONEY = 1_000
"""In each account at the beginning."""


def keys_of(line: str) -> list[str]:
    """Those that nobody else writes."""
    return [f"{line} {letter}" for letter in "abcdef"]


def body(name: str) -> bytes:
    """The value that is called so: as long as its name says."""
    return name.encode() + b"." * int(name.partition("*")[2].partition("<")[0])


def name_of(value: bytes) -> str:
    name = value.rstrip(b".").decode()
    assert body(name) == value, f"half of a value: {name} and {len(value) - len(name)} bytes of its body"
    return name


async def read(store: kv.AsyncStore, line: str) -> Has:
    """All that a line has, while nobody writes it."""
    found = {}
    for key, value in (await store.get_many(keys_of(line))).items():
        left = await store.ttl(key)
        assert left is not None, f"{key} is there, and has expired"
        found[key] = (name_of(value), None if left == math.inf else math.ceil(left / UNIT))
    return found


def say(**what: object) -> None:
    line = json.dumps(what).encode() + b"\n"
    assert len(line) <= 4096
    os.write(1, line)


class Step(NamedTuple):
    """One call, what it makes of the line's entries (None: gone), and what it answers."""

    call: Callable[[], Awaitable[object]]
    new: dict[str, Entry | None]
    answer: object = None


class Line:
    """One thread or task that writes, and knows what it has written."""

    def __init__(self, store: kv.AsyncStore, name: str, age: int, chance: random.Random) -> None:
        self.store, self.name, self.age, self.chance = store, name, age, chance
        self.keys = keys_of(name)
        self.has: Has = {}

    async def work(self) -> None:
        self.has = await self.patiently_read()
        say(line=self.name, what="begins", has=self.has)
        for n in count():
            if n % 10 == 9:
                assert await self.patiently_read() == self.has
            elif self.chance.random() < 0.3:
                await self.share()
            else:
                await self.take(self.step(f"{self.age}.{n}*{self.chance.choice([0, 0, 50, 5_000])}"))

    async def patiently_read(self) -> Has:
        while True:
            try:
                return await read(self.store, self.name)
            except kv.Unavailable:
                await asyncio.sleep(0.01)

    async def take(self, step: Step) -> None:
        say(line=self.name, what="tries", new=step.new)
        old = self.has
        new = {key: entry for key, entry in {**old, **step.new}.items() if entry}
        error: kv.KVError | None = None
        try:
            answer = await step.call()
        except (kv.OutcomeUnknown, kv.Unavailable) as e:
            error = e
        if error:
            unknown = isinstance(error, kv.OutcomeUnknown)
            self.has = await self.patiently_read()
            assert self.has == old or (unknown and self.has == new), f"{error!r} of {old} to {new} left {self.has}"
            say(line=self.name, what="unknown" if unknown else "refused", happened=self.has == new)
        else:
            assert answer == step.answer, f"{answer!r} and not {step.answer!r}"
            self.has = new
            say(line=self.name, what="has done")

    async def share(self) -> None:
        """Write what others write too."""
        counting = self.chance.random() < 0.5
        if counting:
            say(line=self.name, what="counts")
        try:
            answer = await (self.store.increment(COUNTER) if counting else self.transfer())
        except (kv.OutcomeUnknown, kv.Unavailable) as e:
            if counting:
                say(line=self.name, what="may have counted" if isinstance(e, kv.OutcomeUnknown) else "counted not")
            await self.patiently_read()
        else:
            if counting:
                say(line=self.name, what="counted", number=answer)

    async def transfer(self) -> None:
        payer, payee = self.chance.sample(ACCOUNTS, 2)
        part = self.chance.random()

        def fn(found: dict[str, bytes]) -> dict[str, bytes]:
            has = {key: int(found.get(key, MONEY)) for key in (payer, payee)}
            amount = int(has[payer] * part)
            return {payer: b"%d" % (has[payer] - amount), payee: b"%d" % (has[payee] + amount)}

        await self.store.update_many([payer, payee], fn)

    def step(self, name: str) -> Step:
        store, has = self.store, self.has
        one, two, three = keys = self.chance.sample(self.keys, 3)
        age = self.chance.choice([None, 1, 2, 3])
        ttl = age and age * UNIT
        value = body(name)
        old = {key: body(has[key][0]) for key in keys if key in has}

        def next_name(current: bytes | None) -> str:
            return f"{name}<{name_of(current).partition('*')[0]}" if current else name

        def rename(current: bytes | None) -> bytes:
            return body(next_name(current))

        def rename_two(found: dict[str, bytes]) -> dict[str, bytes]:
            return {key: rename(found.get(key)) for key in (one, two)}

        def kept(key: str) -> Entry:
            """As an update leaves it."""
            return next_name(old.get(key)), has[key][1] if key in has else age

        dated, renamed = (name, age), {key: kept(key) for key in (one, two)}
        if one not in has:
            on_one = [Step(lambda: store.add(one, value, ttl=ttl), {one: dated}, True)]
        else:
            on_one = [
                Step(lambda: store.add(one, value), {}, False),
                Step(lambda: store.delete(one), {one: None}, True),
                Step(lambda: store.pop(one), {one: None}, old[one]),
                Step(lambda: store.expire(one, ttl), {one: (has[one][0], age)}, True),
                Step(lambda: store.persist(one), {one: (has[one][0], None)}, has[one][1] is not None),
                Step(lambda: store.compare_and_set(one, old[one], value, ttl=ttl), {one: dated}, True),
            ]
        return self.chance.choice(
            [
                *on_one,
                Step(lambda: store.set(one, value, ttl=ttl), {one: dated}),
                Step(lambda: store.set_many(dict.fromkeys(keys, value), ttl=ttl), dict.fromkeys(keys, dated)),
                Step(lambda: store.delete_many(keys), dict.fromkeys(keys), len(old)),
                Step(lambda: store.update(one, rename, ttl_if_new=ttl), {one: kept(one)}, rename(old.get(one))),
                Step(
                    lambda: store.update_many(keys, rename_two, ttl_if_new=ttl),
                    {**renamed, three: None},
                    {key: body(entry[0]) for key, entry in renamed.items()},
                ),
            ]
        )


async def write(url: str, colour: str, lines: list[str], age: int, seed: str) -> None:
    store: Any = kv.open(url) if colour == "sync" else kv.open_async(url)
    opened = lifted(store)
    work = [Line(opened, name, age, random.Random(f"{seed} {age} {name}")).work() for name in lines]
    if colour == "async":
        await asyncio.gather(*work)
    for one in work:
        threading.Thread(target=guarded, args=(one,)).start()


def guarded(work: Any) -> None:
    try:
        asyncio.run(work)
    except BaseException:
        say(error=traceback.format_exc()[-2_000:])


def main(url: str, seed: str) -> None:
    writers: dict[str, int] = {}
    for order in sys.stdin:
        told = json.loads(order)
        for name in told.get("kill", ()):
            os.kill(writers[name], signal.SIGKILL)
        for name in told.get("kill", ()):
            os.waitpid(writers.pop(name), 0)
        for name, writer in told.get("start", {}).items():
            writers[name] = os.fork()
            if not writers[name]:
                guarded(write(url, seed=seed, **writer))
                return
        say(done=True)
    for pid in writers.values():
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
