"""What is done: the workloads A to F of YCSB, and the operations one by one, each a list of calls that is made before the clock runs."""

from __future__ import annotations

import os
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ZIPFIAN = 0.99
"""YCSB's constant: the most popular of 10,000 keys gets a tenth of all calls."""
BATCH = 100
"""Entries of a `get_many`, a `set_many`, a page, and keys under one prefix."""

Step = tuple[str, tuple[Any, ...]]
"""The name of a call, and its arguments."""


def key_of(number: int) -> str:
    """Give a key; a hundred of them share a prefix."""
    return f"{prefix_of(number)}{number % BATCH:02}"


def prefix_of(number: int) -> str:
    """Give the prefix of a key."""
    return f"user:{number // BATCH:07}:"


class Data:
    """The entries that are there at first, and whom chance picks."""

    def __init__(self, entries: int, value_bytes: int) -> None:
        self.entries = entries
        self.keys = [key_of(number) for number in range(entries)]
        self.values = [os.urandom(value_bytes) for _ in range(1_009)]  # a prime, so that a key gets a new one each time
        self._weights = list(accumulate(1 / rank**ZIPFIAN for rank in range(1, entries + 1)))
        # scattered, so that popular keys are not neighbours; YCSB hashes the rank, which gives some keys to two ranks
        self._scattered = Random(0).sample(self.keys, entries)

    def popular(self, chance: Random, number: int) -> list[str]:
        """Draw keys, zipfian."""
        return chance.choices(self._scattered, cum_weights=self._weights, k=number)

    def ranks(self, chance: Random, number: int) -> list[int]:
        """Draw ranks, 0 the most popular, zipfian."""
        return chance.choices(range(self.entries), cum_weights=self._weights, k=number)

    def some(self, chance: Random, number: int) -> list[bytes]:
        """Give values that follow each other."""
        begin = chance.randrange(len(self.values))
        return [self.values[(begin + i) % len(self.values)] for i in range(number)]


class Client(NamedTuple):
    """Who calls, in which round."""

    data: Data
    number: int
    round: int

    def chance(self, what: str) -> Random:
        """Give a source of choices of one kind."""
        return Random(f"{what} {self.round} {self.number}")

    def new(self) -> Iterator[str]:
        """Give keys that nobody has used."""
        number = self.data.entries + (self.round * 100 + self.number + 1) * 1_000_000
        while True:
            yield key_of(number)
            number += 1


class Workload(NamedTuple):
    """A kind of work."""

    name: str
    needs: tuple[str, ...]
    """The calls that a store must have."""
    steps: Callable[[Client, int], list[Step]]
    """So many steps of a client."""
    entries: int = 1
    """So many a call reads or writes."""


def mix(name: str, share: float, usual: str, rare: str) -> Workload:
    """A workload in which this share of the calls is of one kind, and the rest of another."""

    def steps(client: Client, number: int) -> list[Step]:
        kinds, new = client.chance("kind"), client.new()
        keys = client.data.popular(client.chance("key"), number)
        values = client.data.some(client.chance("value"), number)
        lengths = client.chance("length")
        made: list[Step] = []
        for key, value in zip(keys, values, strict=True):
            call = usual if kinds.random() < share else rare
            if call == "get":
                made.append((call, (key,)))
            elif call == "scan":
                made.append((call, (key, lengths.randint(1, BATCH))))
            elif call == "insert":
                made.append(("set", (next(new), value)))
            else:
                made.append((call, (key, value)))
        return made

    needs = {"insert": "set"}
    return Workload(name, (needs.get(usual, usual), needs.get(rare, rare)), steps)


def latest(client: Client, number: int) -> list[Step]:
    """D: most reads are of what was stored last."""
    kinds, new = client.chance("kind"), client.new()
    ranks = client.data.ranks(client.chance("key"), number)
    values = client.data.some(client.chance("value"), number)
    mine: list[str] = []
    made: list[Step] = []
    for rank, value in zip(ranks, values, strict=True):
        if kinds.random() < 0.95:
            made.append(("get", (mine[-1 - rank] if rank < len(mine) else client.data.keys[len(mine) - 1 - rank],)))
        else:
            mine.append(next(new))
            made.append(("set", (mine[-1], value)))
    return made


def reading(client: Client, number: int) -> list[Step]:
    """`get` of one key each."""
    return [("get", (key,)) for key in client.data.popular(client.chance("key"), number)]


def writing(call: str) -> Callable[[Client, int], list[Step]]:
    """A call with a key and a value."""

    def steps(client: Client, number: int) -> list[Step]:
        keys = client.data.popular(client.chance("key"), number)
        values = client.data.some(client.chance("value"), number)
        return [(call, pair) for pair in zip(keys, values, strict=True)]

    return steps


def adding(client: Client, number: int) -> list[Step]:
    """A key that nobody has is added, then deleted."""
    new, values = client.new(), client.data.some(client.chance("value"), number)
    made: list[Step] = []
    for value in values[: (number + 1) // 2]:
        key = next(new)
        made += [("add", (key, value)), ("delete", (key,))]
    return made[:number]


def counting(client: Client, number: int) -> list[Step]:
    """A thousand counters, some more popular than others."""
    return [("increment", (f"count:{rank % 1_000:03}",)) for rank in client.data.ranks(client.chance("key"), number)]


def reading_many(client: Client, number: int) -> list[Step]:
    """Any hundred keys."""
    chance = client.chance("key")
    return [("get_many", (chance.sample(client.data.keys, BATCH),)) for _ in range(number)]


def writing_many(client: Client, number: int) -> list[Step]:
    """Any hundred keys."""
    chance = client.chance("key")
    return [
        ("set_many", (dict(zip(chance.sample(client.data.keys, BATCH), client.data.some(chance, BATCH), strict=True)),))
        for _ in range(number)
    ]


def paging(client: Client, number: int) -> list[Step]:
    """The keys under any prefix."""
    chance = client.chance("key")
    return [("page", (prefix_of(chance.randrange(client.data.entries)),)) for _ in range(number)]


YCSB = (
    mix("A", 0.5, "get", "set"),
    mix("B", 0.95, "get", "set"),
    Workload("C", ("get",), reading),
    mix("F", 0.5, "get", "update"),
    Workload("D", ("get", "set"), latest),  # D and E add entries, so they come last, as YCSB would have it
    mix("E", 0.95, "scan", "insert"),
)
SINGLE = (
    Workload("get", ("get",), reading),
    Workload("set", ("set",), writing("set")),
    Workload("set_ttl", ("set_ttl",), writing("set_ttl")),
    Workload("add_delete", ("add", "delete"), adding),
    Workload("increment", ("increment",), counting),
    Workload("update", ("update",), writing("update")),
    Workload("get_many", ("get_many",), reading_many, BATCH),
    Workload("set_many", ("set_many",), writing_many, BATCH),
    Workload("page", ("page",), paging, BATCH),
)
