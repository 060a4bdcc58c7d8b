"""Queues: what is no job, of another type, named by somebody else or plainly wrong."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from adapted import now
from colours import both, run
from queues import Clock, drain, place, queue_on

import kv
from kv.adapters import AsyncQueue, Queue
from kv.adapters.queue import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable


@both
def test_what_is_no_job_becomes_a_dead_letter_as_it_is(opens: Callable[..., Any], anywhere: str) -> None:
    wrong = [b"", b"junk", b"\x02{}\nx", b'\x02{"attempts":"1","pushed":2,"error":null}\n3', b"\x02[]\n", b"\xff" * 99]

    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        queue = queue_on(store, clock=clock)
        await now(queue.push("first"))
        (key,) = await place(store).keys()
        for n, value in enumerate(wrong):
            await place(store).set(key[:-8] + f"{n:08x}", value)
        await now(queue.push("last"))
        clock.now += 1
        values, errors = [], []
        for _ in range(10):
            try:
                values += await drain(queue)
            except kv.CorruptData as e:
                errors.append(str(e))
        assert values == ["first", "last"]
        assert len(errors) == len(wrong)
        assert all("in the queue 'q' is not a job; it is now the dead letter" in error for error in errors)
        assert await now(queue.counts()) == (0, 0, 0, len(wrong))
        letters = await now(queue.dead())
        assert Counter(letter.data for letter in letters) == Counter(wrong)
        assert {(letter.attempts, letter.pushed_at) for letter in letters} == {(0, None)}
        for letter in letters:
            assert letter.id in " ".join(errors)
            with pytest.raises(kv.CorruptData, match="is not a job; it was left as it is"):
                await now(queue.retry_dead(letter.id))
        assert await now(queue.counts()) == (0, 0, 0, len(wrong))
        assert await now(queue.drop_dead(letters[0].id))
        assert await now(queue.clear()) == len(wrong) - 1

    run(opens(anywhere), body)


@both
def test_names_of_somebody_else_are_left_alone_and_keep_nobody_waiting(
    opens: Callable[..., Any], anywhere: str
) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        queue = queue_on(store, clock=clock)
        await now(queue.push("x"))
        clock.now += 1
        (key,) = await place(store).keys()
        names = [f"q/00{n}" for n in range(2 * PAGE)] + [
            key + "0",
            key.replace("r", "x"),
            key[:-1],
            "q/",
            "d/x",
            "d/",
            "other",
            "é",
        ]
        await place(store).set_many(dict.fromkeys(names, b"mine"))
        assert await now(queue.counts()) == (1, 0, 0, 0)
        assert await drain(queue) == ["x"]
        assert await now(queue.dead()) == []
        assert not await now(queue.retry_dead("x"))
        assert not await now(queue.drop_dead("x"))
        assert await place(store).keys() == sorted(names)
        await now(queue.clear())
        assert await place(store).keys() == ["other", "é"]

    run(opens(anywhere), body)


@both
def test_a_value_of_another_type_becomes_a_dead_letter(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        clock = Clock()
        old, new = queue_on(store, clock=clock), queue_on(store, int, clock=clock)
        await now(old.push_many(["secret words", 7]))
        clock.now += 1
        with pytest.raises(kv.CorruptData, match="in the queue 'q' it is now a dead letter") as caught:
            await now(new.claim())
        assert "secret" not in str(caught.value)
        assert await drain(new) == [7]
        (letter,) = await now(new.dead())
        assert letter.data == b'"secret words"'
        assert letter.attempts == 1
        assert "is not what this codec wrote" in (letter.error or "")
        assert "secret" not in repr(letter)
        with pytest.raises(kv.CorruptData):
            _ = letter.value
        assert await now(old.retry_dead(letter.id))
        clock.now += 1
        assert await drain(old) == ["secret words"]

    run(opens(anywhere), body)


@both
def test_any_name_makes_a_queue_of_its_own(opens: Callable[..., Any], anywhere: str) -> None:
    names = ["q", "{q}", "}", "{", "}{", "{}", "q}x", "a:b", "a/b%", "🔑é*?[", "x" * 247]

    async def body(store: kv.AsyncStore) -> None:
        queues = [queue_on(store, name=name) for name in names]
        for queue in queues:
            await now(queue.push(queue.name))
        for queue in queues:
            assert await drain(queue) == [queue.name]
        inside = queue_on(store.namespace("a{b"))
        await now(inside.push("inside"))
        assert await now(queues[0].claim()) is None
        assert await drain(inside) == ["inside"]

    run(opens(anywhere), body)


@both
def test_what_is_wrong_is_said_before_anything(opens: Callable[..., Any]) -> None:
    wrong_options: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"visibility": 0}, kv.InvalidTTL),
        ({"visibility": None}, kv.InvalidTTL),
        ({"visibility": float("inf")}, kv.InvalidTTL),
        ({"max_attempts": 0}, ValueError),
        ({"max_attempts": True}, TypeError),
        ({"max_attempts": 1.5}, TypeError),
        ({"backoff": 3}, TypeError),
        ({"codec": "yaml"}, kv.ConfigError),
    ]

    async def body(store: kv.AsyncStore) -> None:
        for name in ("", "a\nb", "x" * 248, 7, None):
            with pytest.raises(kv.InvalidKey):
                queue_on(store, name=name)  # type: ignore[arg-type]
        for options, error in wrong_options:
            with pytest.raises(error):
                queue_on(store, **options)
        wrong_colour: Any = AsyncQueue if opens is kv.open else Queue
        with pytest.raises(TypeError, match=r"Queue stands on a kv\.\w+, not on"):
            wrong_colour(getattr(store, "_store", store) if opens is kv.open else store, "x")
        queue = queue_on(store, int)
        calls: list[tuple[Callable[[], Any], type[Exception]]] = [
            (lambda: queue.push("secret words"), kv.InvalidValue),
            (lambda: queue.push_many([1, "secret words"]), kv.InvalidValue),
            (lambda: queue.push(1, delay=-1), ValueError),
            (lambda: queue.push(1, delay=float("nan")), ValueError),
            (lambda: queue.push(1, delay="1"), TypeError),
            (lambda: queue.claim("1"), TypeError),
            (lambda: queue.claim(-1), ValueError),
            (lambda: queue.claim(visibility=0), kv.InvalidTTL),
            (lambda: queue.claim(visibility=float("inf")), kv.InvalidTTL),
            (lambda: queue.retry_dead(7), kv.InvalidKey),
            (lambda: queue.drop_dead(""), kv.InvalidKey),
        ]
        for call, error in calls:
            with pytest.raises(error) as caught:
                await now(call())
            assert "secret" not in str(caught.value)
        assert await store.namespaces() == []
        await now(queue.push(1))
        job = await now(queue.claim())
        for wrong, kind in ((7, TypeError), (b"x", TypeError)):
            with pytest.raises(kind):
                await now(job.nack(wrong))
        for delay in (-1, float("inf")):
            with pytest.raises(ValueError, match="delay must be from 0"):
                await now(job.nack(delay=delay))
        with pytest.raises(kv.InvalidTTL):
            await now(job.extend(0))
        await now(job.ack())

    run(opens("memory://"), body)


@both
def test_nothing_shows_a_value(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        queue = queue_on(store)
        await now(queue.push("secret"))
        job = await now(queue.claim())
        assert repr(job).endswith(f"Job {job.id} of 'q', attempt 1>")
        assert "Queue 'q' on <" in repr(queue)
        assert "secret" not in repr(job) + repr(queue)

    run(opens("memory://"), body)


def test_dead_letters_come_page_by_page_in_order(memory: kv.Store) -> None:
    clock = Clock()
    queue: Queue[int] = Queue(memory, "q", max_attempts=1, clock=clock)
    ids = queue.push_many(range(1_200))
    clock.now += 1
    while job := queue.claim():
        job.nack()
    letters = queue.dead()
    assert next(letters).id == ids[0]
    assert [letter.value for letter in letters] == [*range(1, 1_200)]
