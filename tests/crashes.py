"""Writers that are killed, and what must be there after that. `crashing.py` has the writers.

`KV_SOAK=60` makes each test of crashes go on for so many seconds; `KV_SEED=...` makes the choices of that seed again,
though what comes of them is up to the machine too. Figures are printed: `pytest -rP` shows them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import crashing
from crashing import ACCOUNTS, COUNTER, MONEY
from waiting import wait_for

import kv
from kv.testing.suite import bounded, lifted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from crashing import Has

SOAK: Final = float(os.environ.get("KV_SOAK", "0"))
"""Seconds for each test; 0: as short as it can be."""
SEED: Final = os.environ.get("KV_SEED")


@contextlib.contextmanager
def seeded() -> Iterator[tuple[str, random.Random]]:
    """A seed, and chance that comes of it; what fails says which seed it was."""
    seed = SEED or str(random.SystemRandom().getrandbits(32))
    try:
        yield seed, random.Random(seed)
    except BaseException as e:
        e.add_note(f"KV_SEED={seed} makes these choices again")
        raise


def rounds(least: int) -> Iterator[int]:
    """Numbers from 1: so many, or as many as there is time for."""
    end = time.monotonic() + SOAK
    for n in count(1):
        if n > least and time.monotonic() >= end:
            return
        yield n


class Account:
    """What one line has been told that it has written, and what else may be there."""

    def __init__(self) -> None:
        self.has: Has = {}
        self.trying: Has | None = None  # what there is if the call under way has happened
        self.past: list[Has] = [{}]  # all that it had, in order

    def hear(self, what: str, said: dict[str, Any]) -> None:
        if what == "begins":
            self.find({key: tuple(entry) for key, entry in said["has"].items()})
        elif what == "tries":
            new = {key: entry and tuple(entry) for key, entry in said["new"].items()}
            self.trying = {key: entry for key, entry in {**self.has, **new}.items() if entry}
        elif what == "has done" or said["happened"]:
            assert self.trying is not None
            self.become(self.trying)
        else:
            self.trying = None

    def become(self, has: Has) -> None:
        self.has, self.trying = has, None
        self.past.append(has)

    def find(self, found: Has, *, older: bool = False) -> int:
        """What is there after a crash: what was acknowledged, and the call under way wholly or not at all; `older`: or
        what there was at some time. Gives how many acknowledged calls are lost.
        """
        under_way = [] if self.trying is None else [self.trying]
        past = [*reversed(self.past)]
        allowed = [*under_way, *(past if older else past[:1])]
        assert found in allowed, f"found {found}\nacknowledged {self.has}\nunder way {self.trying}"
        self.past, self.has, self.trying = [found], found, None
        return max(0, allowed.index(found) - len(under_way))


class Crew:
    """Writers in processes, and what they have said. In `with`; at its end they are killed.

    Attributes:
        figures: how often what was said.
        wrong: what went wrong in a writer.
    """

    def __init__(self, url: str, seed: str, writers: Sequence[tuple[str, int]]) -> None:
        """`writers`: the colour of each, and how many threads or tasks it has."""
        self._writers = {
            f"w{i}": {"colour": colour, "lines": [f"w{i} line {n}" for n in range(lines)]}
            for i, (colour, lines) in enumerate(writers)
        }
        self._ages = Counter[str]()
        self.accounts = {line: Account() for writer in self._writers.values() for line in writer["lines"]}
        self.figures = Counter[str]()
        self.wrong: list[str] = []
        self._counted: list[int] = []  # what `increment` has answered
        self._counting = Counter[str]()  # lines that may have counted once more
        self._obeyed = threading.Semaphore(0)
        self._process = subprocess.Popen(
            [sys.executable, Path(crashing.__file__), url, seed],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)
        self._listener.join(60)
        if self.wrong:
            raise AssertionError("\n".join(self.wrong[:3]))

    def _listen(self) -> None:
        assert self._process.stdout
        with self._process.stdout as out:
            for line in out:
                said = json.loads(line)
                try:
                    self._hear(said)
                except AssertionError as e:
                    self.wrong.append(f"{said}: {e}")
        self._obeyed.release()

    def _hear(self, said: dict[str, Any]) -> None:
        if "line" not in said:
            if "error" in said:
                self.wrong.append(said["error"])
            else:
                self._obeyed.release()
            return
        line, what = said["line"], said["what"]
        self.figures[what] += 1
        if what == "counts":
            self._counting[line] += 1
        elif what in ("counted", "counted not"):
            self._counting[line] -= 1
            self._counted += [said["number"]] if what == "counted" else []
        elif what != "may have counted":
            self.accounts[line].hear(what, said)

    def _tell(self, **order: object) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        assert self._obeyed.acquire(timeout=60)

    def start(self, *names: str) -> None:
        """Start these writers, or all."""
        chosen = names or [*self._writers]
        self._ages.update(chosen)
        self._tell(start={name: {**self._writers[name], "age": self._ages[name]} for name in chosen})

    def kill(self, *names: str) -> None:
        """Kill these writers, or all, all at once, and hear all that they have said."""
        self._tell(kill=names or [*self._writers])

    def lines_of(self, *names: str) -> list[str]:
        return [line for name in names or self._writers for line in self._writers[name]["lines"]]

    def go_on(self, steps: int) -> None:
        """Wait until each line has done so much more."""
        before = {line: len(account.past) for line, account in self.accounts.items()}
        wait_for(
            lambda: self.wrong or all(len(self.accounts[line].past) >= n + steps for line, n in before.items()), 60
        )
        assert not self.wrong, "\n".join(self.wrong[:3])

    def check(self, url: str, *names: str, older: bool = False) -> None:
        """Open the store again, and see that these writers' lines are there, or all that is."""
        lost = 0

        async def main() -> None:
            nonlocal lost
            store = lifted(kv.open(url))
            try:
                for line in self.lines_of(*names):
                    lost += self.accounts[line].find(await crashing.read(store, line), older=older)
                if not names:
                    await self._check_what_is_shared(store, older=older)
                wrong = await store.verify()
                assert wrong == [], wrong
            finally:
                await store.aclose()

        bounded(main, 60)
        assert not self.wrong, "\n".join(self.wrong[:3])
        self.figures["checked"] += 1
        self.figures["lost"] += lost

    async def _check_what_is_shared(self, store: kv.AsyncStore, *, older: bool) -> None:
        money = [int(value) for value in (await store.get_many(ACCOUNTS)).values()]
        money += [MONEY] * (len(ACCOUNTS) - len(money))
        assert sum(money) == MONEY * len(ACCOUNTS), f"half of a transfer: {money}"
        number = int(await store.get(COUNTER, b"0"))
        assert older or len({*self._counted}) == len(self._counted), "one number was given twice"
        least, most = len(self._counted), len(self._counted) + self._counting.total()
        assert number <= most, f"counted twice: {number}, and not {most} or less"
        assert older or least <= number, f"lost: {number}, and not {least} or more"
        if older:
            self._counted = [*range(1, number + 1)]

    def report(self) -> None:
        print(", ".join(f"{what}: {n:,}" for what, n in sorted(self.figures.items())))
