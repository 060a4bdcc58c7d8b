"""Broken: what is not one step, and what becomes of `fn`."""

# mypy: disable-error-code="override, arg-type, return-value, func-returns-value, index, assignment"

from __future__ import annotations

import asyncio
import functools
import math
import sqlite3
import threading
import time
from contextlib import suppress
from typing import Any

from tiny import AsyncTinyStore, TinyStore

import kv
from broken.base import Tiny, caught_by, network
from kv.errors import BackendError, KVError
from kv.values import Unchanged, of_many, to_int, updated


@caught_by("test_concurrent_updates_lose_nothing")
class LostUpdate(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        new = updated(fn, self.get(key), key)
        network()
        return super().update(key, lambda _: new, **ttl)


@caught_by("test_concurrent_updates_of_a_missing_key_lose_nothing")
class LostUpdateOfAMissingKey(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        if self.row(key) is not None:
            return super().update(key, fn, **ttl)
        new = updated(fn, None, key)
        return super().update(key, lambda _: new, **ttl)


@caught_by("test_concurrent_updates_of_an_expired_entry_lose_nothing")
class LostUpdateOfAnExpiredEntry(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        row = self.row(key)
        if row is None or row[1] > time.monotonic():
            return super().update(key, fn, **ttl)
        new = updated(fn, None, key)
        return super().update(key, lambda _: new, **ttl)


@caught_by("test_concurrent_updates_that_delete_and_create_lose_nothing")
class LostDeletionOfUpdate(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        try:
            return super().update(key, functools.partial(self.kept, fn), **ttl)
        except Unchanged:
            network()
            self.delete(key)
            return None

    def kept(self, fn: Any, current: bytes | None) -> bytes:
        new = updated(fn, current, "-")
        if new is None:
            raise Unchanged
        return new


@caught_by("test_concurrent_updates_of_many_keys_lose_nothing")
class LostUpdateOfMany(Tiny):
    def update_many(self, keys: Any, fn: Any, **ttl: Any) -> Any:
        asked = [*keys]
        if len(asked) == 1:
            return super().update_many(asked, fn, **ttl)
        answer = of_many(fn, asked)(self.get_many(asked))
        network()
        return super().update_many(asked, lambda _: answer, **ttl)


@caught_by("test_concurrent_increments_lose_nothing")
class LostIncrement(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        total = amount + to_int(self.get(key, b"0"), key)
        network()
        self.set(key, b"%d" % total)
        return total


@caught_by("test_one_of_many_adds_wins")
class TwoAddsWin(Tiny):
    def add(self, key: str, value: Any, *, ttl: Any = None) -> bool:
        if self.exists(key):
            return False
        network()
        self.set(key, value, ttl=ttl)
        return True


@caught_by("test_one_of_many_pops_gets_the_value")
class TwoPopsGetTheValue(Tiny):
    def pop(self, key: str, default: Any = None) -> Any:
        value = self.get(key, default)
        network()
        self.delete(key)
        return value


@caught_by("test_one_of_many_compare_and_sets_wins")
class TwoCompareAndSetsWin(Tiny):
    def compare_and_set(self, key: str, expected: Any, value: Any, **ttl: Any) -> bool:
        if self.get(key) != expected:
            return False
        network()
        self.update(key, lambda _: value, **ttl)
        return True


@caught_by("test_compare_and_set_counts_without_loss")
class LostCompareAndSet(Tiny):
    def compare_and_set(self, key: str, expected: Any, value: Any, **ttl: Any) -> bool:
        same = self.get(key) == expected
        network()
        return same and super().compare_and_set(key, self.get(key), value, **ttl)


@caught_by("test_one_of_many_deletes_removes_the_entry")
class TwoDeletesRemoveTheEntry(Tiny):
    def delete(self, key: str) -> bool:
        there = self.exists(key)
        network()
        super().delete(key)
        return there


@caught_by("test_one_of_many_persists_removes_the_deadline")
class TwoPersistsRemoveTheDeadline(Tiny):
    def persist(self, key: str) -> bool:
        there = self.ttl(key) not in {None, math.inf}
        network()
        super().persist(key)
        return there


@caught_by("test_no_reader_sees_half_of_set_many")
class HalfOfSetMany(Tiny):
    def set_many(self, items: Any, *, ttl: Any = None) -> None:
        for key, value in dict(items).items():
            self.set(key, value, ttl=ttl)
            network()


@caught_by("test_no_reader_sees_half_of_update_many")
class HalfSeenByGetMany(Tiny):
    def get_many(self, keys: Any) -> dict[str, bytes]:
        found = {}
        for key in keys:
            if (value := self.get(key)) is not None:
                found[key] = value
            network()
        return found


@caught_by("test_set_many_stores_all_or_nothing")
class SetManyStoresUpToTheFirstError(Tiny):
    def set_many(self, items: Any, *, ttl: Any = None) -> None:
        for key, value in items.items() if hasattr(items, "items") else items:
            self.set(key, value, ttl=ttl)


@caught_by("test_no_two_calls_wait_for_each_other_forever", hangs=True)
class DeadlockByOrder(Tiny):
    locks: dict[str, threading.RLock]

    def __init__(self) -> None:
        super().__init__()
        self.locks = {}

    def update_many(self, keys: Any, fn: Any, **ttl: Any) -> Any:
        locks = [self.locks.setdefault(key, threading.RLock()) for key in keys]
        for lock in locks:
            lock.acquire()
            network()
        try:
            return super().update_many(keys, fn, **ttl)
        finally:
            for lock in locks:
                lock.release()


@caught_by("test_an_error_of_fn_locks_nobody_out", hangs=True)
class LockKeptAfterAnInterrupt(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        self._table.lock.acquire()
        try:
            new = super().update(key, fn, **ttl)
        except Exception:
            self._table.lock.release()
            raise
        self._table.lock.release()
        return new


@caught_by("test_a_call_on_the_store_from_inside_fn_never_hangs", hangs=True)
class CallFromInsideFnHangs(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self._table.lock = threading.Lock()


@caught_by("test_closing_from_inside_fn_never_hangs", hangs=True)
class ClosingWaitsForTheUpdate(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.busy = threading.Lock()

    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        with self.busy:
            return super().update(key, fn, **ttl)

    def _close(self) -> None:
        with self.busy:
            super()._close()


@caught_by("test_a_stop_iteration_of_fn_is_an_error_like_any_other")
class StopIterationEndsTheUpdate(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        with suppress(StopIteration):
            return super().update(key, fn, **ttl)


@caught_by("test_anything_that_can_be_called_is_a_function")
class OnlyFunctionsAreCalled(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        while hasattr(fn, "func"):
            assert fn is not fn.func, "it goes on for ever"
            fn = fn.func
        return super().update(key, fn, **ttl)


@caught_by("test_an_error_of_fn_comes_out_and_nothing_has_changed")
class ErrorOfFnSwallowed(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        try:
            return super().update(key, fn, **ttl)
        except (KVError, Unchanged):
            raise
        except Exception:
            return self.get(key)


@caught_by("test_an_error_of_fn_comes_out_and_nothing_has_changed")
class ErrorOfFnTranslated(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        try:
            return super().update(key, fn, **ttl)
        except sqlite3.Error as e:
            raise BackendError(str(e)) from e


@caught_by("test_an_error_of_fn_comes_out_and_nothing_has_changed")
class ErrorOfFnCopied(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        try:
            return super().update(key, fn, **ttl)
        except TimeoutError as e:  # as a future between two threads does
            raise TimeoutError(*e.args) from None


@caught_by("test_an_error_of_fn_comes_out_and_nothing_has_changed")
class EntryLostWhereFnFails(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        current = self.get(key)
        self.delete(key)
        new = updated(fn, current, key)
        return super().update(key, lambda _: new, **ttl)


@caught_by("test_an_error_of_fn_comes_out_and_nothing_has_changed")
class FnCalledAgainAfterAConflictOfItsOwn(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        for _ in range(3):
            try:
                return super().update(key, fn, **ttl)
            except kv.Conflict:
                continue
        raise kv.Conflict("gave up")


@caught_by("test_update_gives_fn_the_value_and_stores_its_answer")
class UpdateGivesTheOldValue(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        seen: list[Any] = []
        super().update(key, lambda current: seen.append(current) or fn(current), **ttl)
        return seen[-1]


@caught_by("test_update_deletes_where_fn_gives_none")
class UpdateKeepsWhereFnGivesNone(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        try:
            return super().update(key, functools.partial(LostDeletionOfUpdate.kept, self, fn), **ttl)
        except Unchanged:
            return None


@caught_by("test_a_coroutine_function_is_refused_and_never_started")
class CoroutineNeverAwaited(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        def plain(current: bytes | None) -> Any:
            value = fn(current)
            if value is not None and not isinstance(value, bytes):
                raise TypeError("not bytes")
            return value

        return super().update(key, plain, **ttl)


@caught_by("test_a_bad_argument_is_found_before_fn_is_called")
class FnCalledBeforeTheTTLIsChecked(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        fn(self.get(key))
        return super().update(key, fn, **ttl)


@caught_by("test_update_many_refuses_a_key_that_was_not_asked_for")
class ForeignKeyStored(Tiny):
    def update_many(self, keys: Any, fn: Any, **ttl: Any) -> Any:
        foreign: dict[str, bytes] = {}
        asked = [*keys]

        def fn_of_mine(found: dict[str, bytes]) -> Any:
            answer = fn(found)
            foreign.update((key, value) for key, value in answer.items() if key not in asked)
            return {key: value for key, value in answer.items() if key in asked}

        answer = super().update_many(asked, fn_of_mine, **ttl)
        for key, value in foreign.items():
            self.set(key, value)
        return {**answer, **foreign}


@caught_by("test_update_many_deletes_what_fn_leaves_out")
class LeftOutKeysStay(Tiny):
    def update_many(self, keys: Any, fn: Any, **ttl: Any) -> Any:
        asked = [*keys]
        if len(asked) == 1:
            return super().update_many(asked, fn, **ttl)
        return super().update_many(asked, lambda found: {**found, **fn(found)}, **ttl)


@caught_by("test_update_many_gives_fn_all_that_is_found")
class UpdateManyGivesMissingKeysAsEmpty(Tiny):
    def update_many(self, keys: Any, fn: Any, **ttl: Any) -> Any:
        asked = [*keys]
        if len(asked) == 1:
            return super().update_many(asked, fn, **ttl)
        return super().update_many(asked, lambda found: fn({key: found.get(key, b"") for key in asked}), **ttl)


@caught_by("test_compare_and_set_changes_only_what_is_expected")
class EmptyValueTakenForNone(Tiny):
    def compare_and_set(self, key: str, expected: Any, value: Any, **ttl: Any) -> bool:
        return super().compare_and_set(key, expected or self.get(key) or None, value, **ttl)


@caught_by("test_a_cancelled_call_leaves_the_old_value_or_the_new_one", hangs=True)
class LockKeptByACancelledTask(AsyncTinyStore):
    def __init__(self) -> None:
        super().__init__()
        self.lock = asyncio.Lock()

    async def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        await self.lock.acquire()
        try:
            new = await super().update(key, fn, **ttl)
        except Exception:
            self.lock.release()
            raise
        self.lock.release()
        return new


@caught_by("test_concurrent_updates_lose_nothing")
class LostUpdateBetweenTasks(AsyncTinyStore):
    async def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        new = updated(fn, await self.get(key), key)
        return await super().update(key, lambda _: new, **ttl)


@caught_by("test_one_of_many_pops_gets_the_value")
class TwoTasksPopTheValue(AsyncTinyStore):
    async def pop(self, key: str, default: Any = None) -> Any:
        value = await self.get(key, default)
        await self.delete(key)
        return value


@caught_by("test_concurrent_calls_in_two_namespaces_do_not_mix")
class CurrentNamespace(Tiny):
    current: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self.current = [()]

    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        self.current[0] = self._path
        network()
        return TinyStore.increment(self._view(self.current[0]), key, amount, **ttl)


@caught_by("test_update_many_stores_what_fn_answers_and_gives_it_back")
class UpdateManyGivesWhatWasThere(Tiny):
    def update_many(self, keys: Any, fn: Any, **ttl: Any) -> Any:
        asked = [*keys]
        seen: list[Any] = []
        answer = super().update_many(asked, lambda found: seen.append({**found}) or fn(found), **ttl)
        return answer if len(asked) == 1 else seen[-1]


@caught_by("test_update_many_takes_the_dict_back_that_it_gave")
class SameDictMeansNoChange(Tiny):
    def update_many(self, keys: Any, fn: Any, **ttl: Any) -> Any:
        def changed(found: dict[str, bytes]) -> Any:
            before = {**found}
            answer = fn(found)
            return before if answer is found else answer

        return super().update_many(keys, changed, **ttl)


@caught_by("test_update_many_refuses_what_is_no_dict")
class PairsTakenForADict(Tiny):
    def update_many(self, keys: Any, fn: Any, **ttl: Any) -> Any:
        def paired(found: dict[str, bytes]) -> Any:
            answer = fn(found)
            return dict(answer) if isinstance(answer, list) else answer

        return super().update_many(keys, paired, **ttl)


@caught_by("test_update_many_of_no_key_changes_nothing")
class NoKeyMeansAllKeys(Tiny):
    def update_many(self, keys: Any, fn: Any, **ttl: Any) -> Any:
        return super().update_many([*keys] or self.keys(), fn, **ttl)


@caught_by("test_what_is_no_function_is_refused")
class ValueTakenForAFunction(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        return super().update(key, (lambda _: fn) if isinstance(fn, bytes) else fn, **ttl)
