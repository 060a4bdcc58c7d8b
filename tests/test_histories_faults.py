"""Histories of calls that are cancelled, cut off from the server, or killed with their process: each has happened, or not."""

from __future__ import annotations

import ast
import contextlib
import json
import random
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from histories import MANY, PATIENCE, each, plan, records, started
from linearizable import Call
from proxy import Proxy
from test_histories import all_shared, everywhere

import kv
from kv.testing.suite import bounded, lifted

if TYPE_CHECKING:
    from collections.abc import Callable

    from histories import Soak

    from kv.testing.processes import Process

both = pytest.mark.parametrize("opens", [kv.open, kv.open_async], ids=["threads", "tasks"])


@everywhere
def test_tasks_that_are_cancelled(anywhere: str, soak: Soak) -> None:
    async def main() -> None:
        async with kv.open_async(anywhere) as store:
            for seed in soak.seeds():
                together = seed % 4 == 0
                what = plan(seed, together)
                calls = await records(
                    store, "", clients=6, calls=25 * MANY, faults=[0.05 if together else 0.15], **what
                )
                soak.judge(calls, together=together)

    bounded(main, PATIENCE)


@both
@pytest.mark.parametrize("server", ["postgres_url", "redis_url"])
def test_callers_that_are_cut_off(
    server: str, opens: Callable[[str], Any], request: pytest.FixtureRequest, soak: Soak
) -> None:
    url = urlsplit(request.getfixturevalue(server))
    port = url.port or {"postgresql": 5432, "redis": 6379}[url.scheme]

    async def main() -> None:
        with Proxy(port, host=url.hostname or "127.0.0.1") as proxy:
            user, at, _ = url.netloc.rpartition("@")
            near = url._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}")
            async with lifted(opens(near.geturl())) as store:
                for seed in soak.seeds():
                    await cut(store, proxy, seed)

    async def cut(store: kv.AsyncStore, proxy: Proxy, seed: int) -> None:
        what = plan(seed, together=bool(seed % 2))
        over = threading.Event()

        def cuts() -> None:
            chance = random.Random(seed)
            while not over.wait(0.001):
                if not proxy.lose:
                    proxy.spare, proxy.lose = chance.randint(3, 40), 1

        cutter = threading.Thread(target=cuts)
        cutter.start()
        try:
            calls = await records(store, "", clients=5, calls=25, faults=[0, True], **what)
        finally:
            over.set()
            cutter.join()
            proxy.lose = proxy.spare = 0
        soak.judge(calls, together=bool(seed % 2))

    bounded(main, PATIENCE)


@all_shared
def test_processes_that_are_killed(shared: str, crew: list[Process], soak: Soak) -> None:
    for seed in soak.seeds():
        what = {**plan(seed, together=bool(seed % 2)), "clients": 2, "faults": [0, False, True]}
        victims = started(["sync", "async"])
        try:
            soak.judge(killed(shared, victims, crew[1:3], seed, what), together=bool(seed % 2))
        finally:
            for process in victims:
                process.kill()


def killed(url: str, victims: list[Process], others: list[Process], seed: int, what: dict[str, Any]) -> list[Call]:
    """Kill some processes while all are calling. Give the calls of all of them."""
    for n, process in enumerate(victims):
        process.prepare(url, "recorded", opening=False, who=f"killed {n}.", calls=10**6, **what)
    for process in victims:
        process.hear(PATIENCE)
        process.begin()
    heard: dict[tuple[str, int], Call] = {}
    chance = random.Random(seed)
    ears = [threading.Thread(target=hear, args=(process, chance.randint(2, 80), heard)) for process in victims]
    for ear in ears:
        ear.start()
    kwargs = [{**what, "who": f"other {n}.", "calls": 20, "faults": []} for n, _ in enumerate(others)]
    texts = each(url, others, "recorded", kwargs)
    for ear in ears:
        ear.join(PATIENCE)
        assert not ear.is_alive()
    return [*heard.values(), *(Call(*call) for text in texts for call in ast.literal_eval(text))]


def hear(process: Process, lines: int, heard: dict[tuple[str, int], Call]) -> None:
    """Listen to what a process says of its calls, and kill it after so many lines."""
    assert process._process.stdout
    for n, line in enumerate(process._process.stdout):
        if n == lines:
            process._process.kill()
        with contextlib.suppress(json.JSONDecodeError):  # it died while it said it
            call = Call(*ast.literal_eval(json.loads(line)["call"]))
            heard[call.who, call.start] = call
