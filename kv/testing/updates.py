"""What one caller sees of `update`, `update_many`, `compare_and_set` and `increment`."""

from __future__ import annotations

import functools
import gc
import math
import sqlite3
import warnings
from collections import UserDict
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from kv.errors import Conflict, IntegerOverflow, InvalidKey, InvalidValue, NotAnInteger, StoreClosed, Unavailable
from kv.expiry import KEEP_TTL

from .hostile import BAD_KEYS, BAD_TTLS, BAD_VALUES, A, B, C, D
from .suite import LONG, Lifted, Suite, expired, inside, listed, raises, recorded, together

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kv.store import AsyncStore

MAX: Final = 2**63 - 1
MIN: Final = -(2**63)

NO_INTEGERS: Final = (
    *(b"", b"042", b"00", b"-0", b"-01", b"+1", b" 1", b"1 ", b"1\n", b"--1", b"-", b"+", b"1.0", b"1e3", b"1_000"),
    *(b"0x1", b"abc", b"nan", b"inf", b"\0", b"1\0", b"\xff", "١".encode(), "−1".encode(), b"1,000"),  # noqa: RUF001
    *(b"9223372036854775808", b"-9223372036854775809", b"1" * 20, b"1" * 5_000),
)


class Stop(BaseException):
    """No `Exception`: what an interrupt is."""


class Updates(Suite):
    async def test_update_gives_fn_the_value_and_stores_its_answer(self, store: AsyncStore) -> None:
        seen: list[bytes | None] = []

        def fn(current: bytes | None) -> bytes:
            seen.append(current)
            return (current or b"") + b"+"

        assert await store.update(A, fn) == b"+"
        assert await store.get(A) == b"+"
        assert await store.update(A, fn) == b"++"
        assert await store.get(A) == b"++"
        assert {*seen} == {None, b"+"}

    async def test_update_deletes_where_fn_gives_none(self, store: AsyncStore) -> None:
        await store.set_many({A: b"1", B: b"2"}, ttl=LONG)
        assert await store.update(A, lambda _: None) is None
        assert await store.update(C, lambda _: None) is None
        assert await store.keys() == [B]
        assert await store.update(A, lambda current: b"new" if current is None else b"not deleted") == b"new"
        assert await store.ttl(A) == math.inf

    async def test_an_error_of_fn_comes_out_and_nothing_has_changed(self, store: AsyncStore) -> None:
        await store.set(A, b"old", ttl=LONG)
        errors = (
            *(ValueError("mine"), KeyError("mine"), Stop("mine"), TimeoutError("mine"), ConnectionResetError("mine")),
            *(Conflict("mine"), Unavailable("mine"), InvalidKey("mine"), NotAnInteger("mine"), TypeError("mine")),
            *(sqlite3.OperationalError("database is locked"), MemoryError("mine"), RecursionError("mine"), OSError(28)),
        )
        calls: list[Callable[[Any], Awaitable[object]]] = [
            lambda fn: store.update(A, fn),
            lambda fn: store.update(B, fn, ttl=LONG),
            lambda fn: store.update_many([A, B], fn),
        ]
        for error in errors:

            def fn(_: object, error: BaseException = error) -> Any:
                raise error

            for call in calls:
                with raises(type(error), repr(error)) as caught:
                    await call(fn)
                assert caught.error is error, f"another {error!r} came out"
            assert await listed(store.scan()) == [(A, b"old")]
            assert 0 < (await store.ttl(A) or 0) <= LONG
        assert await store.update(A, lambda current: (current or b"") + b"er") == b"older"
        assert await store.increment(B) == 1

    async def test_a_coroutine_function_is_refused_and_never_started(self, store: AsyncStore) -> None:
        started = []

        async def fn(_: object) -> bytes:
            started.append(1)
            return b"new"

        class Calls:
            async def __call__(self, _: object) -> bytes:
                started.append(1)
                return b"new"

            async def method(self, _: object) -> bytes:
                started.append(1)
                return b"new"

        def disguised(current: object) -> object:
            return fn(current)

        await store.set(A, b"old")
        ways: list[Any] = [fn, functools.partial(fn), Calls(), Calls().method, disguised]
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for way in ways:
                for key in (A, B):
                    with raises(TypeError, way):
                        await store.update(key, way)
                with raises(TypeError, way):
                    await store.update_many([A, B], way)
            gc.collect()
        assert not [str(w.message) for w in warned if "never awaited" in str(w.message)]
        assert not started
        assert await listed(store.scan()) == [(A, b"old")]

    async def test_what_is_no_function_is_refused(self, store: AsyncStore) -> None:
        await store.set(A, b"old")
        wrong: tuple[Any, ...] = (None, b"new", 1, {A: b"new"})
        for fn in wrong:
            with raises(TypeError, fn):
                await store.update(A, fn)
            with raises(TypeError, fn):
                await store.update_many([A], fn)
        assert await listed(store.scan()) == [(A, b"old")]

    async def test_an_answer_of_fn_that_is_no_value_changes_nothing(self, store: AsyncStore) -> None:
        await store.set(A, b"old", ttl=LONG)
        for value in BAD_VALUES:
            for key in (A, B):
                with raises(InvalidValue, value):
                    await store.update(key, recorded([], value))
            with raises(InvalidValue, value):
                await store.update_many([A, B], recorded([], {B: b"new", A: value}))
        assert await listed(store.scan()) == [(A, b"old")]
        assert (await store.ttl(A) or 0) <= LONG

    async def test_a_bad_argument_is_found_before_fn_is_called(self, store: AsyncStore) -> None:
        called: list[object] = []
        wrong: Any
        for wrong in BAD_KEYS:
            with raises(InvalidKey, wrong):
                await store.update(wrong, called.append)
            with raises(InvalidKey, wrong):
                await store.update_many([wrong], called.append)  # type: ignore[arg-type]
        for wrong in BAD_TTLS:
            with raises(ValueError, wrong):
                await store.update(A, called.append, ttl=wrong)
            with raises(ValueError, wrong):
                await store.update_many([A], called.append, ttl_if_new=wrong)  # type: ignore[arg-type]
        assert called == []

    async def test_a_stop_iteration_of_fn_is_an_error_like_any_other(self, store: AsyncStore) -> None:
        await store.set(A, b"old")

        def fn(_: object) -> Any:
            raise error

        error = StopIteration()
        outers: list[Callable[[], Awaitable[object]]] = [
            functools.partial(store.update, A, fn),
            functools.partial(store.update_many, [A, B], fn),
        ]
        for outer in outers:
            with raises(RuntimeError) as raised:  # which is what Python makes of it in a coroutine
                await outer()
            assert raised.error.__cause__ is error
            assert await store.get(A) == b"old"
        assert await store.update(A, lambda _: b"new") == b"new"

    async def test_anything_that_can_be_called_is_a_function(self, store: AsyncStore) -> None:
        class Chain:
            func = property(lambda self: self)  # as of a Mock, each attribute of which is another

            def __call__(self, _: object) -> Any:
                return b"1"

            def many(self, _: object) -> Any:
                return {A: b"2"}

        assert await store.update(A, Chain()) == b"1"
        assert await store.update_many([A], Chain().many) == {A: b"2"}
        assert await store.update(A, functools.partial(lambda new, _: new, b"3")) == b"3"

    async def test_closing_from_inside_fn_never_hangs(self, store: AsyncStore) -> None:
        def fn(_: object) -> bytes:
            inside(self.root, "close" if isinstance(self.root, Lifted) else "aclose")
            return b"new"

        with suppress(Exception):  # to refuse is as good as to work
            await store.update(A, fn)
        await self.root.aclose()
        with raises(StoreClosed):
            await store.get(A)

    async def test_a_call_on_the_store_from_inside_fn_never_hangs(self, store: AsyncStore) -> None:
        await store.set(A, b"old")
        calls: list[tuple[Any, ...]] = [
            *(("get", A), ("get", B), ("keys",), ("count",), ("ttl", A), ("stats",), ("namespaces",)),
            *(("set", A, b"inner"), ("set", B, b"inner"), ("delete", A), ("increment", C), ("cleanup",)),
            *(("add", D, b"1"), ("update", A, lambda _: b"inner"), ("update", B, lambda _: b"inner"), ("clear",)),
        ]
        for method, *args in calls:

            def fn(_: object, method: str = method, args: list[Any] = args) -> bytes:
                inside(store, method, *args)
                return b"new"

            def fn_many(_: object, fn: Callable[[object], bytes] = fn) -> dict[str, bytes]:
                return {A: fn(None)}

            outers: list[Callable[[], Awaitable[object]]] = [
                functools.partial(store.update, A, fn),
                functools.partial(store.update_many, [A, B], fn_many),
            ]
            for outer in outers:
                worked = False
                with suppress(Exception):  # to refuse is as good as to work
                    await outer()
                    worked = True
                if worked:
                    assert await store.get(A) == b"new", method
        await store.set(A, b"after")
        assert await store.update(B, lambda _: b"after") == b"after"
        assert await store.get_many([A, B]) == {A: b"after", B: b"after"}

    # update_many

    async def test_update_many_gives_fn_all_that_is_found(self, store: AsyncStore) -> None:
        await store.set_many({A: b"1", B: b"2", D: b"4"})
        await expired(store, C)
        seen: list[dict[str, bytes]] = []
        await store.update_many([B, A, C, "{t}missing", A], recorded(seen, {}))
        assert seen[-1] == {A: b"1", B: b"2"}
        assert type(seen[-1]) is dict
        assert {type(value) for value in seen[-1].values()} == {bytes}

    async def test_update_many_stores_what_fn_answers_and_gives_it_back(self, store: AsyncStore) -> None:
        await store.set_many({A: b"1", B: b"2", D: b"4"})
        answer: dict[str, bytes | bytearray] = {A: b"10", C: bytearray(b"30")}
        given = await store.update_many([A, B, C], lambda _: answer)
        assert given == {A: b"10", C: b"30"}
        assert (type(given), {*map(type, given.values())}) == (dict, {bytes})
        assert await listed(store.scan()) == [(A, b"10"), (C, b"30"), (D, b"4")]

    async def test_update_many_deletes_what_fn_leaves_out(self, store: AsyncStore) -> None:
        await store.set_many({A: b"1", B: b"2", C: b"3"})
        assert await store.update_many([A, B, "{t}missing"], lambda _: {}) == {}
        assert await listed(store.scan()) == [(C, b"3")]

    async def test_update_many_takes_the_dict_back_that_it_gave(self, store: AsyncStore) -> None:
        def fn(found: dict[str, bytes]) -> dict[str, bytes]:
            found[C] = found.pop(A) + found[B]
            return found

        await store.set_many({A: b"1", B: b"2"})
        assert await store.update_many([A, B, C], fn) == {B: b"2", C: b"12"}
        assert await listed(store.scan()) == [(B, b"2"), (C, b"12")]
        assert await store.update_many([B, C], UserDict) == {B: b"2", C: b"12"}  # any mapping will do

    async def test_update_many_refuses_a_key_that_was_not_asked_for(self, store: AsyncStore) -> None:
        await store.set(A, b"old")
        for key in (C, "", "\0", None, 1):
            answer: Any = {A: b"new", B: b"new", key: b"new"}
            with raises(InvalidKey, answer):
                await store.update_many([A, B], recorded([], answer))
        assert await listed(store.scan()) == [(A, b"old")]

    async def test_update_many_refuses_what_is_no_dict(self, store: AsyncStore) -> None:
        await store.set(A, b"old")
        answers: tuple[Any, ...] = (None, b"new", [(A, b"new")], A, 1)
        for answer in answers:
            with raises(TypeError, answer):
                await store.update_many([A], recorded([], answer))
        assert await listed(store.scan()) == [(A, b"old")]

    async def test_update_many_of_no_key_changes_nothing(self, store: AsyncStore) -> None:
        await store.set(A, b"old")
        assert await store.update_many([], lambda found: found) == {}
        with raises(InvalidKey):
            await store.update_many([], lambda _: {A: b"new"})
        assert await listed(store.scan()) == [(A, b"old")]

    # compare_and_set

    async def test_compare_and_set_changes_only_what_is_expected(self, store: AsyncStore) -> None:
        rows: list[tuple[bytes | None, bytes | None, bytes | None, bool]] = [
            # what is there, expected, value, whether it is set; None: nothing
            (None, None, b"new", True),
            (None, None, b"", True),
            (None, None, None, True),
            (None, b"old", b"new", False),
            (None, b"", b"new", False),
            (None, b"old", None, False),
            (b"old", None, b"new", False),
            (b"old", None, None, False),
            (b"old", b"old", b"new", True),
            (b"old", b"old", b"old", True),
            (b"old", b"old", b"", True),
            (b"old", b"old", None, True),
            (b"old", b"OLD", b"new", False),
            (b"old", b"ol", b"new", False),
            (b"old", b"old\0", b"new", False),
            (b"old", b"", b"new", False),
            (b"old", b"other", None, False),
            (b"", b"", b"new", True),
            (b"", None, b"new", False),
            (b"", b"", None, True),
            (b"\xff\0", b"\xff\0", b"new", True),
            (b"\xff\0", b"\xff", b"new", False),
        ]
        for there, expected, value, done in rows:
            for key in (A, B):
                await store.delete(key)
                if there is not None:
                    await store.set(key, there)
            assert await store.compare_and_set(A, expected, value) is done, (there, expected, value)
            assert await store.get(A) == (value if done else there), (there, expected, value)
            assert await store.get(B) == there

    async def test_compare_and_set_creates_with_the_ttl(self, store: AsyncStore) -> None:
        assert await store.compare_and_set(A, None, b"new", ttl=LONG)
        assert 0 < (await store.ttl(A) or 0) <= LONG
        assert await store.compare_and_set(B, None, b"new", ttl=KEEP_TTL)
        assert await store.ttl(B) == math.inf

    # increment

    async def test_increment_adds_and_gives_the_sum(self, store: AsyncStore) -> None:
        rows = [
            *((None, 1, 1), (None, 0, 0), (None, -5, -5), (None, MAX, MAX), (None, MIN, MIN)),
            *((b"0", 1, 1), (b"42", 1, 43), (b"-7", 3, -4), (b"-1", 1, 0), (b"1", -1, 0), (b"5", 0, 5)),
            *((b"99", 1, 100), (b"9223372036854775806", 1, MAX), (b"-9223372036854775807", -1, MIN)),
            *((b"9223372036854775807", 0, MAX), (b"-9223372036854775808", MAX, -1), (b"9223372036854775807", MIN, -1)),
            *((b"9007199254740993", 1, 2**53 + 2),),
        ]
        for there, amount, total in rows:
            await store.delete(A)
            if there is not None:
                await store.set(A, there)
            given = await store.increment(A, amount)
            assert (type(given), given) == (int, total), (there, amount)
            assert await store.get(A) == b"%d" % total, (there, amount)

    async def test_increment_is_by_one_where_nothing_is_said(self, store: AsyncStore) -> None:
        assert [await store.increment(A) for _ in range(12)] == [*range(1, 13)]
        assert await store.get(A) == b"12"

    async def test_increment_takes_only_canonical_integers(self, store: AsyncStore) -> None:
        for value in NO_INTEGERS:
            await store.set(A, value, ttl=LONG)
            for amount in (0, 1, -1):
                with raises(NotAnInteger, value[:30]):
                    await store.increment(A, amount)
                with raises(NotAnInteger, value[:30]):
                    await store.increment(A, amount, ttl=None)
            assert await store.get(A) == value
            assert (await store.ttl(A) or 0) <= LONG

    async def test_increment_does_not_leave_64_bits(self, store: AsyncStore) -> None:
        rows = [(MAX, 1), (MIN, -1), (MAX, MAX), (MIN, MIN), (1, MAX), (-2, MIN + 1), (MAX - 1, 2)]
        for there, amount in rows:
            await store.set(A, b"%d" % there, ttl=LONG)
            with raises(IntegerOverflow, (there, amount)):
                await store.increment(A, amount)
            with raises(IntegerOverflow, (there, amount)):
                await store.increment(A, amount, ttl=None)
            assert await store.get(A) == b"%d" % there
            assert (await store.ttl(A) or 0) <= LONG

    async def test_an_amount_past_64_bits_is_refused_whatever_the_sum(self, store: AsyncStore) -> None:
        await store.set(A, b"-1")
        for amount in (MAX + 1, MIN - 1, 2**64, -(2**64), 10**30):
            for key in (A, B):
                with raises(IntegerOverflow, amount):
                    await store.increment(key, amount)
        assert await listed(store.scan()) == [(A, b"-1")]

    async def test_an_amount_that_is_no_int_is_refused(self, store: AsyncStore) -> None:
        await store.set(A, b"1")
        wrong: tuple[Any, ...] = (1.0, "1", b"1", None, True, False, Decimal(1), [1], math.nan)
        for amount in wrong:
            for key in (A, B):
                with raises(TypeError, amount):
                    await store.increment(key, amount)
        assert await listed(store.scan()) == [(A, b"1")]

    async def test_increments_of_two_keys_are_two(self, store: AsyncStore) -> None:
        await together(store, *(store.increment(key) for key in (A, B, C) * 5))
        assert await listed(store.scan()) == [(A, b"5"), (B, b"5"), (C, b"5")]
