"""Queues among processes: no job is lost, and none is with two workers at once."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

from programs import ROOT, pythons

import kv
from kv.adapters import Queue

if TYPE_CHECKING:
    from collections.abc import Iterator

JOBS = 200

WORK = """
    import asyncio, sys, kv
    from kv.adapters import AsyncQueue, Queue
    url = sys.argv[1]
    def sync():
        with kv.open(url) as store:
            queue, holders = Queue(store, "q", int, visibility=1000), store.namespace("holders")
            while job := queue.claim():
                assert holders.add(job.id, b""), "two workers have one job"
                assert holders.delete(job.id)
                job.ack() if job.attempts == 2 or job.value % 4 else job.nack(delay=0)
                print(job.value)
    async def main():
        async with kv.open_async(url) as store:
            queue, holders = AsyncQueue(store, "q", int, visibility=1000), store.namespace("holders")
            while job := await queue.claim():
                assert await holders.add(job.id, b""), "two workers have one job"
                assert await holders.delete(job.id)
                await (job.ack() if job.attempts == 2 or job.value % 4 else job.nack(delay=0))
                print(job.value)
    asyncio.run(main()) if me % 2 else sync()
"""


def test_every_job_is_done_once_where_nobody_dies_and_never_by_two_at_once(shared: str) -> None:
    with kv.open(shared) as store:
        queue: Queue[int] = Queue(store, "q", int)
        queue.push_many(range(JOBS))
        said = pythons(WORK, shared)
        assert queue.counts() == (0, 0, 0, 0)
    done = sorted(int(line) for lines in said for line in lines.split())
    assert done == sorted([*range(JOBS), *range(0, JOBS, 4)])  # every fourth was given back once


PUSH = """
    import asyncio, sys, kv
    from kv.adapters import AsyncQueue, Queue
    url = sys.argv[1]
    def sync():
        with kv.open(url) as store:
            queue = Queue(store, "q")
            for n in range(10):
                queue.push([me, n])
    async def main():
        async with kv.open_async(url) as store:
            queue = AsyncQueue(store, "q")
            for n in range(10):
                await queue.push([me, n])
    asyncio.run(main()) if me % 2 else sync()
"""


def test_jobs_of_each_of_many_pushing_processes_come_in_its_order(shared: str) -> None:
    pythons(PUSH, shared)
    with kv.open(shared) as store:
        queue: Queue[list[int]] = Queue(store, "q")
        came = []
        while job := queue.claim():
            with job:
                came.append(job.value)
    for me in range(4):
        assert [n for one, n in came if one == me] == [*range(10)]
    assert len(came) == 40


DIE = """
    import asyncio, sys, kv
    from kv.adapters import AsyncQueue, Queue
    url, colour = sys.argv[1:]
    def sync():
        with kv.open(url) as store:
            queue, done = Queue(store, "q", int, visibility=0.5, max_attempts=1000), store.namespace("done")
            while sys.stdin.readline():
                job = queue.claim(timeout=None)
                print(flush=True)
                for _ in range(20):                  # to be killed in
                    done.increment(str(job.value))
                job.ack()
    async def main():
        async with kv.open_async(url) as store:
            queue, done = AsyncQueue(store, "q", int, visibility=0.5, max_attempts=1000), store.namespace("done")
            while sys.stdin.readline():
                job = await queue.claim(timeout=None)
                print(flush=True)
                for _ in range(20):
                    await done.increment(str(job.value))
                await job.ack()
    asyncio.run(main()) if colour == "async" else sync()
"""


@contextlib.contextmanager
def killed(url: str, colour: str, claims: int) -> Iterator[None]:
    """A worker at work, which is killed in or soon after so many claims."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(DIE), url, colour]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, bufsize=0) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"\n" * (claims + 2))
        try:
            yield
            for _ in range(claims):
                assert process.stdout.readline() == b"\n"
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def test_workers_killed_at_random_lose_no_job(shared: str) -> None:
    chance = random.Random(5)
    with kv.open(shared) as store:
        queue: Queue[int] = Queue(store, "q", int, max_attempts=1000)
        queue.push_many(range(60))
        for _ in range(2):
            with killed(shared, "sync", chance.randrange(1, 9)), killed(shared, "async", chance.randrange(1, 9)):
                pass
        done = store.namespace("done")
        attempts = []
        while any(queue.counts()):
            job = queue.claim(timeout=30)
            assert job
            with job:
                done.increment(str(job.value))
                attempts.append(job.attempts)
        assert sorted(map(int, done.keys())) == [*range(60)]
        assert max(attempts) > 1  # of what died with its worker
