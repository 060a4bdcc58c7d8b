"""Broken: deadlines, and what has expired."""

# mypy: disable-error-code="override, arg-type, return-value, func-returns-value, index, assignment"

from __future__ import annotations

import math
import time
from typing import Any

from tiny import TinyStore

from broken.base import Tiny, caught_by
from kv.errors import InvalidTTL
from kv.expiry import KEEP_TTL, ttl_ms


@caught_by("test_increment_after_the_deadline_starts_at_zero_and_has_no_deadline")
class IncrementInheritsTheDeadline(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        row = self.row(key)
        total = super().increment(key, amount, **ttl)
        if row and not ttl:
            self.put(key, b"%d" % total, row[1])
        return total


@caught_by("test_increment_after_the_deadline_starts_at_zero_and_has_no_deadline")
class IncrementGoesOnAfterTheDeadline(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        if row := self.row(key):
            self.put(key, row[0], max(row[1], time.monotonic() + 60))
        return super().increment(key, amount, **ttl)


@caught_by("test_update_after_the_deadline_gets_none_and_has_no_deadline")
class UpdateInheritsTheDeadline(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        row = self.row(key)
        new = super().update(key, fn, **ttl)
        if row and new is not None and not ttl:
            self.put(key, new, row[1])
        return new


@caught_by("test_update_many_after_the_deadline_finds_nothing_and_has_no_deadline")
class UpdateManyInheritsTheDeadline(Tiny):
    def update_many(self, keys: Any, fn: Any, **ttl: Any) -> Any:
        rows = {key: self.row(key) for key in keys}
        answer = super().update_many(keys, fn, **ttl)
        for key, value in answer.items():
            if len(rows) > 1 and not ttl and (row := rows[key]):
                self.put(key, value, row[1])
        return answer


@caught_by("test_set_without_a_ttl_removes_the_deadline")
class SetKeepsTheOldDeadline(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        row = self.row(key)
        super().set(key, value, ttl=ttl)
        if row and ttl is None and row[1] > time.monotonic():
            self.put(key, bytes(value), row[1])


@caught_by("test_set_over_an_expired_entry_has_no_deadline")
class SetOverAnExpiredEntryKeepsItsDeadline(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        row = self.row(key)
        super().set(key, value, ttl=ttl)
        if row and ttl is None and row[1] < time.monotonic():
            self.put(key, bytes(value), row[1])


@caught_by("test_keep_ttl_keeps_the_deadline")
class UpdateDropsTheDeadline(Tiny):
    def update(self, key: str, fn: Any, *, ttl: Any = KEEP_TTL, ttl_if_new: Any = None) -> Any:
        return super().update(key, fn, ttl=None if ttl is KEEP_TTL else ttl, ttl_if_new=ttl_if_new)


@caught_by("test_keep_ttl_keeps_the_deadline")
class UpdateBeginsTheTTLAnew(Tiny):
    def update(self, key: str, fn: Any, *, ttl: Any = KEEP_TTL, ttl_if_new: Any = None) -> Any:
        left = self.ttl(key)
        if ttl is KEEP_TTL and left is not None and left < math.inf:
            ttl = math.ceil(left)
        return super().update(key, fn, ttl=ttl, ttl_if_new=ttl_if_new)


@caught_by("test_an_update_with_a_ttl_replaces_the_deadline")
class UpdateWithNoneKeepsTheDeadline(Tiny):
    def update(self, key: str, fn: Any, *, ttl: Any = KEEP_TTL, ttl_if_new: Any = None) -> Any:
        return super().update(key, fn, ttl=KEEP_TTL if ttl is None else ttl, ttl_if_new=ttl_if_new)


@caught_by("test_ttl_if_new_counts_only_where_the_call_creates_the_entry")
class TTLIfNewAlwaysCounts(Tiny):
    def update(self, key: str, fn: Any, *, ttl: Any = KEEP_TTL, ttl_if_new: Any = None) -> Any:
        return super().update(key, fn, ttl=ttl if ttl_if_new is None else ttl_if_new, ttl_if_new=ttl_if_new)


@caught_by("test_ttl_if_new_counts_for_what_has_expired")
class TTLIfNewForgottenWhereARowIs(Tiny):
    def update(self, key: str, fn: Any, *, ttl: Any = KEEP_TTL, ttl_if_new: Any = None) -> Any:
        return super().update(key, fn, ttl=ttl, ttl_if_new=None if self.row(key) else ttl_if_new)


@caught_by("test_ttl_and_ttl_if_new_each_have_their_case")
class TTLWinsOverTTLIfNew(Tiny):
    def update(self, key: str, fn: Any, *, ttl: Any = KEEP_TTL, ttl_if_new: Any = None) -> Any:
        return super().update(key, fn, ttl=ttl, ttl_if_new=ttl_if_new if ttl is KEEP_TTL else None)


@caught_by("test_a_deadline_counts_from_the_write")
class DeadlineCountsFromBeforeFn(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        start = time.monotonic()
        new = super().update(key, fn, **ttl)
        if (row := self.row(key)) and row[1] < math.inf:
            self.put(key, row[0], row[1] - (time.monotonic() - start))
        return new


@caught_by("test_every_way_to_say_a_ttl_is_understood")
class TTLCutToSeconds(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        super().set(key, value, ttl=max(1, int(ttl)) if isinstance(ttl, float) and 0 < ttl < 1e9 else ttl)


@caught_by("test_every_method_with_a_ttl_makes_the_entry_expire")
class TTLOfAddForgotten(Tiny):
    def add(self, key: str, value: Any, *, ttl: Any = None) -> bool:
        ttl_ms(ttl)
        return super().add(key, value)


@caught_by("test_none_and_infinity_mean_never")
class InfinityIsAMillennium(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        super().set(key, value, ttl=3e10 if ttl == math.inf else ttl)


@caught_by("test_what_is_no_ttl_is_refused_by_every_method")
class ZeroMeansNever(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        super().set(key, value, ttl=ttl or None)


@caught_by("test_what_is_no_ttl_is_refused_by_every_method")
class NegativeMeansDelete(Tiny):
    def expire(self, key: str, ttl: Any) -> bool:
        return self.delete(key) if isinstance(ttl, int) and ttl < 0 else super().expire(key, ttl)


@caught_by("test_what_is_no_ttl_is_refused_by_every_method")
class TrueIsASecond(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        super().set(key, value, ttl=1 if ttl is True else ttl)


@caught_by("test_what_is_no_ttl_is_refused_by_every_method")
class NotANumberMeansNever(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        super().set(key, value, ttl=None if ttl != ttl else ttl)  # noqa: PLR0124


@caught_by("test_what_is_no_ttl_is_refused_where_there_is_nothing_to_do")
class TTLOfExpireCheckedOnlyWhereAnEntryIs(Tiny):
    def expire(self, key: str, ttl: Any) -> bool:
        return self.exists(key) and super().expire(key, ttl)


@caught_by("test_ttl_gives_the_seconds_left")
class TTLGivesWhatWasSet(Tiny):
    given: dict[str, float]

    def __init__(self) -> None:
        super().__init__()
        self.given = {}

    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        super().set(key, value, ttl=ttl)
        self.given[key] = math.inf if ttl is None else ttl

    def ttl(self, key: str) -> float | None:
        return self.given.get(key) if super().ttl(key) is not None else None


def seen_by(method: str) -> type[Tiny]:
    """Give a store of which one method sees what has expired."""

    def forgetful(self: Tiny, *args: Any, **kwargs: Any) -> Any:
        rows = {where: row for where, row in self._table.entries.items() if row[1] <= time.monotonic()}
        self._table.entries.update({where: (value, time.monotonic() + 60) for where, (value, _) in rows.items()})
        try:
            given = getattr(TinyStore, method)(self, *args, **kwargs)
            return iter([*given]) if method == "scan" else given
        finally:
            self._table.entries.update(rows)

    return type(f"ExpiredEntrySeenBy_{method}", (Tiny,), {method: forgetful})


for _method in ("get", "get_many", "exists", "size", "ttl", "keys", "scan", "count", "stats"):
    caught_by("test_an_expired_entry_is_seen_by_no_method")(seen_by(_method))


@caught_by("test_an_expired_entry_is_nothing_to_delete")
class ExpiredEntryDeletedAsTrue(Tiny):
    def delete(self, key: str) -> bool:
        there = super().delete(key) if self.row(key) is None else True
        self._table.entries.pop((self._path, key), None)
        return there


@caught_by("test_clear_counts_no_expired_entry")
class ExpiredEntriesCountedByClear(Tiny):
    def clear(self, prefix: str = "") -> int:
        doomed = [(path, key) for path, key in self._table.entries if path == self._path and key.startswith(prefix)]
        super().clear(prefix)
        for where in doomed:
            self._table.entries.pop(where, None)
        return len(doomed)


@caught_by("test_an_expired_entry_is_nothing_to_pop")
class ExpiredEntryPopped(Tiny):
    def pop(self, key: str, default: Any = None) -> Any:
        row = self.row(key)
        super().pop(key)
        return row[0] if row else default


@caught_by("test_add_succeeds_over_an_expired_entry")
class AddFailsOverAnExpiredEntry(Tiny):
    def add(self, key: str, value: Any, *, ttl: Any = None) -> bool:
        return super().add(key, value, ttl=ttl) if self.row(key) is None else False


@caught_by("test_compare_and_set_finds_nothing_after_the_deadline")
class CompareAndSetFindsWhatHasExpired(Tiny):
    def compare_and_set(self, key: str, expected: Any, value: Any, **ttl: Any) -> bool:
        if (row := self.row(key)) and row[0] == expected:
            self.put(key, row[0], max(row[1], time.monotonic() + 60))
        return super().compare_and_set(key, expected, value, **ttl)


@caught_by("test_an_expired_entry_cannot_be_brought_back")
class ExpireBringsBack(Tiny):
    def expire(self, key: str, ttl: Any) -> bool:
        if row := self.row(key):
            self.put(key, row[0])
        return super().expire(key, ttl)


@caught_by("test_an_expired_entry_cannot_be_brought_back")
class PersistBringsBack(Tiny):
    def persist(self, key: str) -> bool:
        row = self.row(key)
        if row and row[1] < math.inf:
            self.put(key, row[0])
            return True
        return super().persist(key)


@caught_by("test_expire_of_a_missing_key_creates_nothing")
class ExpireCreates(Tiny):
    def expire(self, key: str, ttl: Any) -> bool:
        there = self.exists(key)
        self.set(key, self.get(key, b""), ttl=ttl)
        return there


@caught_by("test_expire_gives_a_live_entry_a_new_deadline")
class ExpireOnlyShortens(Tiny):
    def expire(self, key: str, ttl: Any) -> bool:
        row = self.row(key)
        done = super().expire(key, ttl)
        if row and done:
            self.put(key, row[0], min(row[1], self.row(key)[1]))
        return done


@caught_by("test_persist_says_whether_it_removed_a_deadline")
class PersistIsAlwaysTrue(Tiny):
    def persist(self, key: str) -> bool:
        super().persist(key)
        return self.exists(key)


@caught_by("test_what_does_not_happen_changes_no_deadline")
class AddThatFailsSetsTheDeadline(Tiny):
    def add(self, key: str, value: Any, *, ttl: Any = None) -> bool:
        done = super().add(key, value, ttl=ttl)
        if not done and ttl is not None:
            self.expire(key, ttl)
        return done


@caught_by("test_a_deleted_key_can_be_set_again")
class DeadlineOutlivesDelete(Tiny):
    deadlines: dict[str, float]

    def __init__(self) -> None:
        super().__init__()
        self.deadlines = {}

    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        super().set(key, value, ttl=ttl)
        if ttl is None and key in self.deadlines:
            self.put(key, bytes(value), self.deadlines[key])

    def delete(self, key: str) -> bool:
        if row := self.row(key):
            self.deadlines[key] = row[1]
        return super().delete(key)


@caught_by("test_an_entry_without_a_ttl_never_expires")
class AddLivesADay(Tiny):
    def add(self, key: str, value: Any, *, ttl: Any = None) -> bool:
        return super().add(key, value, ttl=86_400 if ttl is None else ttl)


@caught_by("test_compare_and_set_creates_with_the_ttl")
class TTLOfCompareAndSetForgotten(Tiny):
    def compare_and_set(self, key: str, expected: Any, value: Any, *, ttl: Any = KEEP_TTL) -> bool:
        return super().compare_and_set(key, expected, value, ttl=KEEP_TTL if expected is None else ttl)


@caught_by("test_deadlines_of_one_key_in_two_namespaces_are_two")
class DeadlineOfAKeyInEveryNamespace(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        super().set(key, value, ttl=ttl)
        for path, other in [*self._table.entries]:
            if other == key and ttl is not None:
                self._table.entries[path, key] = (self._table.entries[path, key][0], self.row(key)[1])


@caught_by("test_the_deadlines_of_two_entries_are_two")
class OneDeadlineForAll(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        super().set(key, value, ttl=ttl)
        deadline = self.row(key)[1]
        for where, (other, until) in [*self._table.entries.items()]:
            if ttl is not None and until < math.inf:
                self._table.entries[where] = (other, deadline)


@caught_by("test_expire_with_no_ttl_makes_the_entry_live_on")
class ExpireNeedsATTL(Tiny):
    def expire(self, key: str, ttl: Any) -> bool:
        return self.exists(key) if ttl is None else super().expire(key, ttl)


@caught_by("test_set_with_a_ttl_replaces_the_deadline")
class SetOnlyShortensTheTTL(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        row = self.row(key)
        super().set(key, value, ttl=ttl)
        if row and ttl is not None and time.monotonic() < row[1] < self.row(key)[1]:
            self.put(key, bytes(value), row[1])


@caught_by("test_the_shortest_ttl_is_taken_and_ends")
class ShortTTLIsForever(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        super().set(key, value, ttl=None if isinstance(ttl, float) and 0 < ttl < 0.001 else ttl)


@caught_by("test_the_shortest_ttl_is_taken_and_ends")
class ShortTTLRefused(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        if isinstance(ttl, float) and 0 < ttl < 0.001:
            raise InvalidTTL("less than a millisecond")
        super().set(key, value, ttl=ttl)


@caught_by("test_ttl_of_a_missing_key_is_none")
class TTLOfAMissingKeyIsMinusTwo(Tiny):
    def ttl(self, key: str) -> float | None:
        left = super().ttl(key)
        return -2.0 if left is None else left

    def exists(self, key: str) -> bool:
        return self.get(key) is not None


@caught_by("test_update_many_gives_each_key_the_ttl_of_its_own_case")
class TTLIfNewForAllOrNone(Tiny):
    def update_many(self, keys: Any, fn: Any, *, ttl: Any = KEEP_TTL, ttl_if_new: Any = None) -> Any:
        asked = [*keys]
        if len(asked) > 1 and ttl_if_new is not None and len(self.get_many(asked)) < len(asked):
            ttl = ttl_if_new
        return super().update_many(asked, fn, ttl=ttl, ttl_if_new=ttl_if_new)
