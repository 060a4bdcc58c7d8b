"""Queues: in which order, how often and to whom jobs come, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from adapted import AsyncCutOff, CutOff, entered, now, on
from colours import both, in_threads, run
from programs import python
from queues import Clock, drain, queue_on

import kv
from kv.adapters import AsyncQueue, Counts, LeaseLost, Queue
from kv.adapters.queue import PAGE, backoff
from kv.testing.suite import together

if TYPE_CHECKING:
    from collections.abc import Callable


@both
def test_jobs_come_in_the_order_in_which_they_were_pushed(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        queue = queue_on(store, clock=clock)
        ids = [await now(queue.push(0))]
        ids += await now(queue.push_many(iter(range(1, 40))))
        clock.now += 0.000_01  # before all of them are due
        ids += [await now(queue.push(n)) for n in range(40, 45)]
        assert await now(queue.push_many([])) == []
        assert await now(queue.counts()) == (11, 34, 0, 0)  # a microsecond after each other
        clock.now += 0.001
        assert await now(queue.counts()) == Counts(ready=45, delayed=0, claimed=0, dead=0)
        jobs = [await now(queue.claim()) for _ in range(20)]
        assert await now(queue.counts()) == (25, 0, 20, 0)
        assert [job.value for job in jobs] == [*range(20)]
        assert [job.id for job in jobs] == ids[:20]
        assert {job.attempts for job in jobs} == {1}
        assert jobs[0].pushed_at == pytest.approx(1_700_000_000)
        for job in jobs:
            await now(job.ack())
        assert await drain(queue_on(store, clock=clock)) == [*range(20, 45)]
        assert await now(queue.claim()) is None
        assert await now(queue.counts()) == (0, 0, 0, 0)
        assert await store.namespaces() == []

    run(opens(anywhere), body)


@both
def test_a_job_pushed_for_later_comes_later(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        queue = queue_on(store, str, clock=clock)
        await now(queue.push("late", delay=10))
        await now(queue.push("later", delay=timedelta(minutes=1)))
        await now(queue.push("now"))
        assert await now(queue.counts()) == (0, 3, 0, 0)
        clock.now += 0.001
        assert await now(queue.counts()) == (1, 2, 0, 0)
        assert await drain(queue) == ["now"]
        clock.now += 9.98
        assert await drain(queue) == []
        clock.now += 0.1
        assert await drain(queue) == ["late"]
        clock.now += 49
        assert await drain(queue) == []
        clock.now += 1
        assert await drain(queue) == ["later"]

    run(opens(anywhere), body)


@both
def test_a_claim_that_runs_out_gives_the_job_to_another(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        queue, other = (queue_on(store, visibility=10, clock=clock) for _ in range(2))
        await now(queue.push({"n": 1}))
        clock.now += 1
        late = await now(queue.claim())
        clock.now += 9.99
        assert await now(other.claim()) is None
        assert await now(queue.counts()) == (0, 0, 1, 0)
        clock.now += 0.02
        assert await now(queue.counts()) == (1, 0, 0, 0)
        job = await now(other.claim(visibility=100))
        assert (job.id, job.value, job.attempts, job.pushed_at) == (late.id, {"n": 1}, 2, late.pushed_at)
        for act in (late.ack, late.nack, late.extend, lambda: late.extend(5), lambda: late.nack("why", 0)):
            with pytest.raises(LeaseLost, match=rf"the claim of job {job.id} of the queue 'q' no longer stands"):
                await now(act())
        clock.now += 99
        assert await now(queue.claim()) is None
        await now(job.extend(60))
        clock.now += 59
        await now(job.extend())
        clock.now += 9
        assert await now(queue.claim()) is None
        clock.now += 2  # over, but nobody has it yet
        await now(job.ack())
        with pytest.raises(LeaseLost):
            await now(job.ack())
        assert await now(queue.counts()) == (0, 0, 0, 0)

    run(opens(anywhere), body)


@both
def test_a_job_that_fails_comes_again_later_and_at_last_is_dead(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        asked: list[int] = []

        def pause(attempts: int) -> float:
            asked.append(attempts)
            return 10.0 * attempts

        queue = queue_on(store, max_attempts=3, backoff=pause, clock=clock)
        for n in range(2):
            await now(queue.push(n))
        clock.now += 1
        job = await now(queue.claim())
        assert await now(job.nack("first"))
        assert await now(queue.counts()) == (1, 1, 0, 0)
        assert await drain(queue) == [1]
        clock.now += 9
        assert await now(queue.claim()) is None
        clock.now += 1
        job = await now(queue.claim())
        assert job.attempts == 2
        assert await now(job.nack(delay=0))
        job = await now(queue.claim())
        assert job.attempts == 3
        assert not await now(job.nack(ZeroDivisionError("third " + "x" * 2_000)))
        assert asked == [1, 3]
        with pytest.raises(LeaseLost):
            await now(job.ack())
        assert await now(queue.claim()) is None
        assert await now(queue.counts()) == (0, 0, 0, 1)
        (dead,) = await now(queue.dead())
        assert (dead.id, dead.value, dead.attempts, dead.pushed_at) == (job.id, 0, 3, job.pushed_at)
        assert dead.error == ("ZeroDivisionError: third " + "x" * 2_000)[:1_000]
        assert await now(queue.retry_dead(job.id))
        assert not await now(queue.retry_dead(job.id))
        clock.now += 1
        again = await now(queue.claim())
        assert (again.id, again.value, again.attempts) == (job.id, 0, 1)
        await now(again.nack(delay=0))
        for _ in range(2):
            await now((await now(queue.claim())).nack(delay=0))
        assert await now(queue.drop_dead(job.id))
        assert not await now(queue.drop_dead(job.id))
        assert await now(queue.counts()) == (0, 0, 0, 0)

    run(opens(anywhere), body)


@both
def test_a_job_that_kills_its_workers_is_dead_at_last(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        queue = queue_on(store, max_attempts=2, visibility=10, clock=clock)
        await now(queue.push("poison"))
        clock.now += 1
        for _ in range(2):
            assert await now(queue.claim())
            clock.now += 11
        await now(queue.push("good"))
        clock.now += 1
        assert await drain(queue) == ["good"]
        (dead,) = await now(queue.dead())
        assert (dead.value, dead.attempts) == ("poison", 2)
        assert dead.error == "the visibility of its last claim, of 2, was over before an ack"
        await now(queue.push("given back"))
        clock.now += 1
        await now((await now(queue.claim())).nack("why", delay=0))
        assert await drain(queue_on(store, max_attempts=1, clock=clock)) == []  # where fewer are allowed
        assert [letter.error for letter in await now(queue.dead())] == [dead.error, "why"]

    run(opens(anywhere), body)


@both
def test_a_job_as_a_context_manager(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        queue = queue_on(store, backoff=lambda _: 10, visibility=100, clock=clock)
        await now(queue.push("x"))
        clock.now += 1
        with pytest.raises(ZeroDivisionError) as caught:
            async with entered(await now(queue.claim())):
                raise ZeroDivisionError("failed")
        assert not hasattr(caught.value, "__notes__")
        assert await now(queue.claim()) is None
        clock.now += 10
        with pytest.raises(KeyboardInterrupt):
            async with entered(await now(queue.claim())):
                raise KeyboardInterrupt
        lost = await now(queue.claim())  # at once
        assert lost.attempts == 3
        clock.now += 101
        async with entered(await now(queue.claim())) as job:
            with pytest.raises(LeaseLost):
                async with entered(lost):
                    pass
            with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012
                async with entered(lost) as inside:
                    inside._over = False
                    raise ZeroDivisionError
            assert "and then: the claim of job" in caught.value.__notes__[0]
            await now(job.nack(delay=0))  # and leaving does nothing more
        async with entered(await now(queue.claim())) as job:
            assert job.attempts == 5
            await now(job.ack())
        await now(queue.push("y"))
        clock.now += 1
        async with entered(await now(queue.claim())) as job:
            assert job.value == "y"
        assert await now(queue.counts()) == (0, 0, 0, 0)

    run(opens("memory://"), body)


@both
def test_many_at_once_claim_each_job_once(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        queues = [queue_on(store) for _ in range(4)]
        await now(queues[0].push_many(range(40)))
        done: list[int] = []

        async def work(queue: Any) -> None:
            done.extend(await drain(queue))

        await together(store, *(work(queue) for queue in queues), work(queues[0]))
        assert sorted(done) == [*range(40)]
        assert await now(queues[0].counts()) == (0, 0, 0, 0)

    run(opens(anywhere), body)


@both
def test_who_waits_for_a_job_gets_one_that_is_pushed_meanwhile(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        queue = queue_on(store)
        assert await now(queue.claim(0.02)) is None

        async def wait() -> Any:
            return (await now(queue.claim(timeout=None))).value

        async def push() -> Any:
            await now(queue.push("x"))

        assert await together(store, wait(), push()) == ["x", None]

    run(opens("memory://"), body)


@both
def test_one_listing_serves_many_claims(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        watched = on(store, CutOff, AsyncCutOff)
        queue: Any = (Queue if opens is kv.open else AsyncQueue)(watched, "q")
        await now(queue.push_many(range(2 * PAGE)))
        watched.calls.clear()
        assert await drain(queue) == [*range(2 * PAGE)]
        assert Counter(watched.calls) == {"keys": 3, "update_many": 2 * PAGE, "delete": 2 * PAGE}

    run(opens("memory://"), body)


@both
def test_what_was_listed_and_is_gone_hides_nothing(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        queue, other = queue_on(store), queue_on(store)
        await now(queue.push_many(range(PAGE)))
        await now((await now(queue.claim())).ack())  # and has listed the others
        assert await drain(other) == [*range(1, PAGE)]
        await now(other.push("new"))
        assert await drain(queue) == ["new"]

    run(opens("memory://"), body)


@both
def test_order_stands_while_the_clock_is_set_back(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        queue = queue_on(store, clock=clock)
        await now(queue.push(1))
        clock.now -= 0.5
        await now(queue.push(2))
        clock.now += 1
        assert await drain(queue) == [1, 2]
        clock.now -= 3_600  # and nobody waits for an hour
        await now(queue.push(3))
        clock.now += 0.001
        assert await drain(queue) == [3]

    run(opens("memory://"), body)


@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError, kv.OutcomeUnknown])
@both
def test_who_is_cut_off_while_claiming_loses_no_job(opens: Any, error: type[BaseException]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        cut: Any = on(store, CutOff, AsyncCutOff, "update_many", error("cut off"))
        queue: Any = (Queue if opens is kv.open else AsyncQueue)(cut, "q", visibility=10, clock=clock)
        await now(queue.push("x"))
        clock.now += 1
        with pytest.raises(error, match="cut off"):
            await now(queue.claim())
        if error is kv.OutcomeUnknown:  # the store may be gone: the job comes back by itself
            clock.now += 10
        job = await now(queue.claim())
        assert (job.value, job.attempts) == ("x", 2 if error is kv.OutcomeUnknown else 1)

    run(opens("memory://"), body)


def test_a_pause_grows_with_the_attempts_is_jittered_and_bounded() -> None:
    for attempts, most in ((1, 1), (2, 2), (5, 16), (9, 256), (10, 300), (10_000, 300)):
        found = {backoff(attempts) for _ in range(20)}
        assert most / 2 <= min(found) < max(found) <= most


def test_threads_that_push_through_one_queue_get_one_order(memory: kv.Store) -> None:
    queue: Queue[int] = Queue(memory, "q", clock=Clock())
    results = in_threads(*[lambda: [queue.push(n) for n in range(50)]] * 4)
    assert all(isinstance(ids, list) and ids == sorted(ids) for ids in results)
    assert len({key[:19] for key in memory.namespace("{queue.q}").keys("q/")}) == 200


def test_a_child_forked_while_a_thread_pushes_can_push() -> None:
    said = python(
        """
        import os, threading, time, warnings, kv
        from kv.adapters import Queue
        warnings.simplefilter("ignore", DeprecationWarning)   # of fork beside threads, which is what is tested
        inside, done = threading.Event(), threading.Event()
        def clock():
            if threading.current_thread() is not threading.main_thread():
                inside.set()
                done.wait()
            return time.time()
        with kv.open("memory://") as store:
            queue = Queue(store, "q", clock=clock)
            thread = threading.Thread(target=queue.push, args=("thread",))
            thread.start()
            inside.wait()
            if not (pid := os.fork()):
                queue.push("child")
                os._exit(0)
            print(os.waitpid(pid, 0)[1])
            done.set()
            thread.join()
        """
    )
    assert said == "0\n"


def test_who_misses_a_job_goes_on_at_one_of_the_next_few(memory: kv.Store) -> None:
    came = []
    for n in range(20):
        one, other = (Queue(memory, f"q{n}", int) for _ in range(2))
        one.push_many(range(12))
        for queue in (one, other, one):
            job = queue.claim(timeout=5)
            assert job
            came.append(job.value)
    assert came[0::3] == [0] * 20
    assert came[1::3] == [1] * 20
    assert {*came[2::3]} <= {*range(2, 10)}
    assert len({*came[2::3]}) > 1
