"""What calls that go together stand on: the queue of one event loop, sums that are told, answers that are read. No server."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from redis import Connection

import kv
from kv.backends.gathering import TOGETHER, Batch, Gathering, own
from kv.backends.postgres.together import sums_of
from kv.backends.redis.wire import packed, plain
from kv.testing.suite import bounded

EDGE = 2**63 - 1


async def echo(batch: Batch[int]) -> None:
    for one in batch:
        one.done(one.asks)


def test_who_waits_behind_what_is_stuck_goes_without_it() -> None:
    async def main() -> None:
        stuck = asyncio.Event()

        async def send(batch: Batch[int]) -> None:
            if batch[0].asks == 0:
                await stuck.wait()
            await echo(batch)

        gathering = Gathering(send, asyncio.get_running_loop())
        me = gathering.enter()
        first = asyncio.create_task(gathering.join(0))
        await asyncio.sleep(0)
        gathering.leave(me)  # the first goes, and is not heard of
        await asyncio.sleep(0)
        others = [gathering.join(n) for n in range(1, 10)]
        assert await asyncio.gather(*others) == [*range(1, 10)]
        assert not first.done()
        stuck.set()
        assert await first == 0
        assert gathering.under_way is None

    bounded(main, 30)


def test_those_who_go_together_are_so_many_at_most_and_none_who_waits_no_longer() -> None:
    async def main() -> None:
        sent: list[list[int]] = []

        async def send(batch: Batch[int]) -> None:
            sent.append([one.asks for one in batch])
            await echo(batch)

        gathering = Gathering(send, asyncio.get_running_loop())
        me = gathering.enter()
        tasks = [asyncio.create_task(gathering.join(n)) for n in range(TOGETHER * 4)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        gathering.leave(me)
        assert await asyncio.gather(*tasks[1::2]) == [*range(1, TOGETHER * 4, 2)]
        assert sent == [[*range(1, TOGETHER * 2, 2)], [*range(TOGETHER * 2 + 1, TOGETHER * 4, 2)]]

    bounded(main, 30)


def test_what_is_under_way_is_cancelled_when_nobody_waits_for_it_and_nothing_else_is() -> None:
    async def main() -> None:
        let, cancelled = asyncio.Event(), 0

        async def send(batch: Batch[int]) -> None:
            nonlocal cancelled
            try:
                await let.wait()
            except asyncio.CancelledError:
                cancelled += 1
                raise
            await echo(batch)
            if batch[0].asks == 20:
                let.clear()
                for task in tasks:  # who has his answer and has not seen it
                    task.cancel()

        gathering = Gathering(send, asyncio.get_running_loop())

        async def begin(first: int, n: int) -> list[asyncio.Task[int]]:
            me = gathering.enter()
            tasks = [asyncio.create_task(gathering.join(first + n)) for n in range(n)]
            await asyncio.sleep(0)
            gathering.leave(me)
            await asyncio.sleep(0)
            return tasks

        tasks = await begin(0, 3)
        for task in tasks[:2]:
            task.cancel()
        await asyncio.sleep(0)
        let.set()
        assert await tasks[2] == 2
        assert (tasks[0].cancelled(), tasks[1].cancelled(), cancelled) == (True, True, 0)

        let.clear()
        tasks = await begin(10, 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (cancelled, gathering.under_way) == (1, None)

        tasks = await begin(20, 3)
        others = [asyncio.create_task(gathering.join(n)) for n in range(2)]
        let.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(5):
            await asyncio.sleep(0)
        assert cancelled == 1
        let.set()
        assert await asyncio.gather(*others) == [0, 1]

    bounded(main, 30)


def test_what_sends_may_fail_or_be_cancelled_before_it_begins_and_nobody_hangs() -> None:
    async def main() -> None:
        async def fail(_: Batch[int]) -> None:
            raise LookupError

        gathering = Gathering(fail, asyncio.get_running_loop())
        me = gathering.enter()
        tasks = [asyncio.create_task(gathering.join(n)) for n in range(3)]
        await asyncio.sleep(0)
        gathering.leave(me)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(r) for r in results] == [LookupError] * 3
        assert len({id(r) for r in results}) == 3

        gathering = Gathering(echo, asyncio.get_running_loop())
        me = gathering.enter()
        tasks = [asyncio.create_task(gathering.join(n)) for n in range(3)]
        await asyncio.sleep(0)
        gathering.leave(me)
        for task in gathering._tasks:
            task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert all(task.done() for task in tasks)  # without a wait for the watch
        assert await asyncio.gather(*tasks) == [0, 1, 2]
        assert gathering.under_way is None

    bounded(main, 30)


def test_an_error_of_many_is_each_ones_own_where_it_can_be_made_anew() -> None:
    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(one + two)

    error, odd = kv.OutcomeUnknown("what"), Odd(1, 2)
    error.__cause__ = odd
    assert own(error) is not error
    assert (str(own(error)), own(error).__cause__) == ("what", odd)
    assert own(odd) is odd


@given(
    st.lists(st.lists(st.binary(max_size=9) | st.integers() | st.sampled_from(["é", "large"]), max_size=9), max_size=9)
)
def test_commands_are_what_redis_py_sends_and_large_values_are_not_copied(told: list[list[object]]) -> None:
    large = b"x" * 70_000
    commands: list[tuple[Any, ...]] = [("GET", *(large if arg == "large" else arg for arg in args)) for args in told]
    pieces = [*packed(commands)]
    redis_py: Any = Connection
    assert b"".join(pieces) == b"".join(part for args in commands for part in redis_py().pack_command(*args))
    assert sum(piece is large for piece in pieces) == sum(arg is large for args in commands for arg in args)


def test_an_answer_is_read_where_it_is_whole_and_plain() -> None:
    data = b"$3\r\nab\r\r\n:5\r\n+OK\r\n_\r\n$-1\r\n$0\r\n\r\n:-7\r\n"
    answers = [b"ab\r", 5, b"OK", None, None, b"", -7]
    assert plain(data, 99) == (answers, len(data))
    assert plain(data, 2)[0] == answers[:2]
    for cut in range(len(data)):
        found, taken = plain(data[:cut], 99)
        assert answers[: len(found)] == found
        rest = plain(data[taken:], 99)[0]
        assert found + rest == answers
    for other in (b"-ERR no\r\n", b"*1\r\n:1\r\n", b">2\r\n+a\r\n+b\r\n", b"#t\r\n", b",1.5\r\n"):
        assert plain(b":1\r\n" + other, 99) == ([1], 4)


@given(st.lists(st.integers(-(2**63), EDGE), min_size=1, max_size=8), st.integers(-(2**63), EDGE))
def test_sums_that_are_told_are_those_of_some_order_and_fit(amounts: list[int], start: int) -> None:
    assume(sum(map(abs, amounts)) <= EDGE)
    assume(-(2**63) <= start + sum(amounts) <= EDGE)
    sums = sums_of(amounts, start)
    assert all(-(2**63) <= made <= EDGE for made in sums)
    left = [*zip(amounts, sums, strict=True)]
    now = start
    while left:  # each has its turn
        step = next(one for one in left if now + one[0] == one[1])
        left.remove(step)
        now = step[1]
    assert now == start + sum(amounts)
