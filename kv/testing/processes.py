"""What several processes see of one store: both colours at once, in processes that every check uses again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KEYS = [f"{{t}}{i}" for i in range(6)]
NEVER = "{t}never"
"""A sign that nobody leaves: of a job that goes on until it is killed, and says when it is at work."""


class Process:
    """A process that does one job after another, see `worker`."""

    def __init__(self, colour: str, module: str = "kv.testing.worker") -> None:
        self.colour = colour
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(  # noqa: S603 - a module of whoever tests
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
            encoding="utf-8",
        )

    def prepare(self, url: str, job: str, opening: bool, **kwargs: object) -> None:
        self._send(json.dumps({"url": url, "colour": self.colour, "job": job, "opening": opening, "kwargs": kwargs}))

    def begin(self) -> None:
        self._send("begin")

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self, seconds: float) -> Any:
        """Wait for what it says: None where it has come to some point, else the result of the job."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(seconds, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        assert line, f"a process ended, or took more than {seconds:g} s; its exit code is {self._process.wait()}"
        said = json.loads(line)
        if "error" in said:
            raise AssertionError(f"in a process with the {self.colour} store:\n{said['error']}")
        return said.get("result")

    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it as a power cut would, at once."""
        self._process.kill()
        self._process.communicate()


class ProcessConformance:
    """Checks of a store that several processes may open. A subclass gives the fixture `url`: of a new, empty one.

    Attributes:
        processes: how many there are.
        colours: how they open the URL, in turn.
        timeout: how many seconds a process may take for one job.
    """

    processes: ClassVar[int] = 8
    colours: ClassVar[tuple[str, ...]] = ("sync", "async")
    timeout: ClassVar[float] = 60.0
    _crew: ClassVar[list[Process]]

    @classmethod
    def setup_class(cls) -> None:
        cls._crew = [Process(cls.colours[i % len(cls.colours)]) for i in range(cls.processes)]

    @classmethod
    def teardown_class(cls) -> None:
        for process in cls._crew:
            process.kill()

    def each(self, url: str, *jobs: Mapping[str, Any], opening: bool = False) -> list[Any]:
        """Do the jobs at once, each in a process, and give the results."""
        for i, process in enumerate(self._crew):
            if process.ended():  # killed, as it took too long in another check
                process.kill()
                self._crew[i] = Process(process.colour)
        crew = self._crew[: len(jobs)]
        for process, job in zip(crew, jobs, strict=True):
            process.prepare(url, opening=opening, **job)
        for process in crew:
            process.hear(self.timeout)
        for process in crew:
            process.begin()
        end = time.monotonic() + self.timeout
        results, errors = [], []
        for process in crew:
            try:
                results.append(process.hear(max(end - time.monotonic(), 0.1)))
            except AssertionError as e:
                errors.append(e)
        if errors:  # when all have been heard, so that none speaks of this job in the next check
            raise errors[0]
        return results

    def all(self, url: str, job: str, opening: bool = False, **kwargs: object) -> list[Any]:
        """Do one job in every process at once."""
        return self.each(url, *({"job": job, **kwargs} for _ in self._crew), opening=opening)

    def one(self, url: str, job: str, **kwargs: object) -> Any:
        """Do one job in one process."""
        return self.each(url, {"job": job, **kwargs})[0]

    def numbers(self, url: str, keys: Iterable[str]) -> list[int]:
        return [int(value or 0) for value in self.one(url, "gets", keys=[*keys])]

    def test_many_processes_open_a_new_store_at_once(self, url: str) -> None:
        self.all(url, "increments", opening=True, keys=["n"], times=1)
        assert self.numbers(url, ["n"]) == [self.processes]

    def test_increments_of_processes_lose_nothing(self, url: str) -> None:
        self.all(url, "increments", keys=["n"], times=20)
        assert self.numbers(url, ["n"]) == [20 * self.processes]
        self.one(url, "expires", keys=KEYS)
        self.all(url, "increments", keys=KEYS, times=1)
        assert self.numbers(url, KEYS) == [self.processes] * len(KEYS)

    def test_updates_of_processes_lose_nothing(self, url: str) -> None:
        self.all(url, "updates", keys=["n"], times=10)
        assert self.numbers(url, ["n"]) == [10 * self.processes]
        for _ in range(2):
            self.one(url, "expires", keys=KEYS)
            self.all(url, "updates", keys=KEYS, times=1)
            assert self.numbers(url, KEYS) == [self.processes] * len(KEYS)

    def test_updates_of_many_keys_by_processes_lose_nothing(self, url: str) -> None:
        for _ in range(2):
            jobs = [{"job": "updates_of_many", "keys": KEYS[:: (-1) ** i], "times": 5} for i in range(self.processes)]
            self.each(url, *jobs)
            assert self.numbers(url, KEYS) == [5 * self.processes] * len(KEYS)
            self.one(url, "expires", keys=KEYS)

    def test_one_process_wins_each_add(self, url: str) -> None:
        for _ in range(2):
            won = self.all(url, "adds", keys=KEYS)
            assert sorted(key for keys in won for key in keys) == KEYS
            self.one(url, "expires", keys=KEYS)

    def test_one_process_gets_each_pop(self, url: str) -> None:
        for _ in range(2):
            self.one(url, "sets", keys=KEYS, value="prize")
            got = self.all(url, "pops", keys=KEYS)
            assert sorted(key for keys in got for key in keys) == KEYS

    def test_one_process_wins_each_compare_and_set(self, url: str) -> None:
        self.one(url, "sets", keys=KEYS, value="0")
        jobs = [{"job": "compares", "keys": KEYS, "value": f"{i + 1}"} for i in range(self.processes)]
        won = self.each(url, *jobs)
        assert sorted(key for keys in won for key in keys) == KEYS
        assert self.numbers(url, KEYS) == [[key in keys for keys in won].index(True) + 1 for key in KEYS]

    def test_no_process_sees_half_of_set_many(self, url: str) -> None:
        self.one(url, "sets", keys=KEYS, value="0")
        signs = [f"{{t}}seen {i}" for i in range(self.processes // 2)]
        write = [{"job": "rewrites", "keys": KEYS, "value": f"{i}", "until": signs} for i in range(len(signs))]
        watch = [{"job": "watches", "keys": KEYS[::-1], "states": 10, "sign": sign} for sign in signs]
        self.each(url, *(job for pair in zip(write, watch, strict=True) for job in pair))

    def test_no_process_sees_half_of_update_many(self, url: str) -> None:
        self.one(url, "sets", keys=KEYS, value="100")
        signs = ["{t}seen 0", "{t}seen 1"]
        move = [{"job": "transfers", "keys": KEYS, "seed": i, "until": signs} for i in range(self.processes - 2)]
        audit = [{"job": "audits", "keys": KEYS, "total": 600, "states": 10, "sign": sign} for sign in signs]
        self.each(url, *move, *audit)

    def test_no_two_processes_wait_for_each_other_forever(self, url: str) -> None:
        self.each(url, *({"job": "mixes", "keys": KEYS, "seed": i, "times": 15} for i in range(self.processes)))
        self.one(url, "sets", keys=KEYS, value="9")
        assert self.numbers(url, KEYS) == [9] * len(KEYS)

    def test_a_process_killed_inside_an_update_leaves_the_old_value_and_no_lock(self, url: str) -> None:
        for colour in self.colours:
            self.one(url, "sets", keys=KEYS, value="7")
            self.die(url, colour, {"job": "stops_in_update", "key": KEYS[0]})
            assert self.numbers(url, KEYS[:1]) == [7]
            self.all(url, "updates", keys=KEYS[:1], times=1)
            assert self.numbers(url, KEYS) == [7 + self.processes, *[7] * (len(KEYS) - 1)]

    def test_a_process_killed_among_its_transfers_leaves_no_half_of_one(self, url: str) -> None:
        move = {"job": "transfers", "keys": KEYS, "seed": 1}
        audit = {"job": "audits", "keys": KEYS, "total": 600, "states": 1, "sign": "{t}seen"}
        for colour in self.colours:
            for seconds in (0, 0.003, 0.02):
                self.one(url, "sets", keys=KEYS, value="100")
                self.die(url, colour, {**move, "until": [NEVER]}, seconds)
                self.each(url, audit, audit)
                self.each(url, {**move, "until": []})

    def die(self, url: str, colour: str, job: dict[str, Any], seconds: float = 0) -> None:
        """Begin a job in a process of its own, and kill it when it is at work, or so many seconds later."""
        process = Process(colour)
        try:
            process.prepare(url, opening=False, **job)
            process.hear(self.timeout)
            process.begin()
            process.hear(self.timeout)
            time.sleep(seconds)
        finally:
            process.kill()
