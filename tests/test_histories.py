"""Every backend under concurrency: what threads, tasks and processes were given has an order that explains it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from histories import EACH, MANY, PATIENCE, TOGETHER, begin, crew, in_processes, keys_of, records

import kv
from kv.testing.suite import bounded, lifted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from histories import Soak

    from kv.testing.processes import Process

MIXES = pytest.mark.parametrize("together", [False, True], ids=["each key", "all keys"])


@pytest.fixture(scope="module")
def processes() -> Iterator[list[Process]]:
    crew_ = crew(["sync", "async"] * 2 * MANY)
    yield crew_
    for process in crew_:
        process.kill()


def plan(seed: int, together: bool) -> dict[str, Any]:
    """What to call: what is promised for all keys together needs keys that a cluster keeps together."""
    return {"seed": seed, "keys": keys_of(seed, "{t}" if together else ""), "mix": TOGETHER if together else EACH}


@MIXES
@pytest.mark.parametrize("opens", [kv.open, kv.open_async], ids=["threads", "tasks"])
def test_threads_and_tasks(anywhere: str, opens: Callable[[str], Any], together: bool, soak: Soak) -> None:
    async def main() -> None:
        async with lifted(opens(anywhere)) as store:
            for seed in soak.seeds():
                what = plan(seed, together)
                await begin(store, seed, what["keys"])
                calls = await records(store, "", clients=6 * MANY, calls=25, **what)
                soak.judge(calls, seed, together=together)

    bounded(main, PATIENCE)


@MIXES
def test_processes_of_both_colours(shared: str, processes: list[Process], together: bool, soak: Soak) -> None:
    async def main() -> None:
        async with lifted(kv.open(shared)) as store:
            for seed in soak.seeds():
                what = plan(seed, together)
                await begin(store, seed, what["keys"])
                calls = in_processes(shared, processes, clients=2, calls=20, **what)
                soak.judge(calls, seed, together=together)

    bounded(main, PATIENCE)


def test_tasks_that_are_cancelled(anywhere: str, soak: Soak) -> None:
    async def main() -> None:
        async with kv.open_async(anywhere) as store:
            for seed in soak.seeds():
                what = plan(seed, together=False)
                calls = await records(store, "", clients=6, calls=25, cancels=0.15, **what)
                soak.judge(calls, seed)

    bounded(main, PATIENCE)
