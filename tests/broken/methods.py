"""Broken: methods of one key and of many, integers, and the end."""

# mypy: disable-error-code="override, arg-type, return-value, func-returns-value, index, assignment"

from __future__ import annotations

from typing import Any

from broken.base import Tiny, caught_by
from kv.errors import NotAnInteger, StoreClosed
from kv.values import INT_MAX, check_items


@caught_by("test_every_method_has_the_parameters_and_defaults_of_the_contract")
class TTLByPosition(Tiny):
    def set(self, key: str, value: Any, ttl: Any = None) -> None:
        super().set(key, value, ttl=ttl)


@caught_by("test_get_gives_the_default_where_the_key_is_missing")
class DefaultForgotten(Tiny):
    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key) if not isinstance(default, bytes) else super().get(key, default)


@caught_by("test_delete_says_whether_there_was_an_entry")
class DeleteIsAlwaysTrue(Tiny):
    def delete(self, key: str) -> bool:
        super().delete(key)
        return True


@caught_by("test_add_sets_only_where_there_is_no_entry")
class AddReplaces(Tiny):
    def add(self, key: str, value: Any, *, ttl: Any = None) -> bool:
        done = super().add(key, value, ttl=ttl)
        if not done:
            super().set(key, value)
        return done


@caught_by("test_pop_gives_the_value_and_deletes")
class PopLeavesTheEntry(Tiny):
    def pop(self, key: str, default: Any = None) -> Any:
        return self.get(key, default)


@caught_by("test_get_many_gives_what_it_finds_in_the_order_asked")
class GetManyInTheOrderOfTheStore(Tiny):
    def get_many(self, keys: Any) -> dict[str, bytes]:
        return dict(sorted(super().get_many(keys).items()))


@caught_by("test_get_many_gives_what_it_finds_in_the_order_asked")
class GetManyGivesNoneForTheMissing(Tiny):
    def get_many(self, keys: Any) -> Any:
        asked = [*keys]
        found = super().get_many(asked)
        return {key: found.get(key) for key in asked}


@caught_by("test_get_many_finds_hundreds")
class GetManyOfNineHundredAndNinetyNine(Tiny):
    def get_many(self, keys: Any) -> dict[str, bytes]:
        return super().get_many([*keys][:999])


@caught_by("test_keys_may_be_any_iterable")
class IteratorReadTwice(Tiny):
    def delete_many(self, keys: Any) -> int:
        there = sum(1 for key in keys if self.exists(key))
        super().delete_many(keys)
        return there


@caught_by("test_set_many_takes_mappings_and_pairs")
class SetManyTakesOnlyDicts(Tiny):
    def set_many(self, items: Any, *, ttl: Any = None) -> None:
        super().set_many(items if isinstance(items, dict) else [], ttl=ttl)


@caught_by("test_set_many_refuses_what_is_no_pairs")
class WhatIsNoPairLeftOut(Tiny):
    def set_many(self, items: Any, *, ttl: Any = None) -> None:
        pairs = getattr(items, "items", lambda: items)()
        super().set_many([pair for pair in pairs if isinstance(pair, tuple) and len(pair) == 2], ttl=ttl)


@caught_by("test_set_many_stores_the_last_value_of_a_key_that_comes_twice")
class FirstOfTwoWins(Tiny):
    def set_many(self, items: Any, *, ttl: Any = None) -> None:
        pairs = [*items.items()] if hasattr(items, "items") else [*items]
        check_items(pairs)
        super().set_many(pairs[::-1], ttl=ttl)


@caught_by("test_set_many_replaces_and_leaves_the_others")
class SetManyKeepsWhatIsThere(Tiny):
    def set_many(self, items: Any, *, ttl: Any = None) -> None:
        entries = check_items(items)
        super().set_many({key: value for key, value in entries.items() if not self.exists(key)}, ttl=ttl)


@caught_by("test_delete_many_counts_the_entries_that_it_removes")
class DeleteManyCountsTheMissing(Tiny):
    def delete_many(self, keys: Any) -> int:
        asked = [*keys]
        super().delete_many(asked)
        return len(asked)


# integers


@caught_by("test_increment_adds_and_gives_the_sum")
class NegativeAmountRefused(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        if amount < 0:
            raise NotAnInteger("only up")
        return super().increment(key, amount, **ttl)


@caught_by("test_increment_adds_and_gives_the_sum")
class SumsInFloats(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        total = super().increment(key, amount, **ttl)
        return total if abs(total) < 2**53 else int(float(total))


@caught_by("test_increment_does_not_leave_64_bits")
class SumsWrapAround(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        try:
            return super().increment(key, amount, **ttl)
        except OverflowError:
            if not -INT_MAX <= amount <= INT_MAX:
                raise
            total: int = int(self.get(key, b"0")) + amount
            self.set(key, b"%d" % ((total + 2**63) % 2**64 - 2**63))
            return total


@caught_by("test_an_amount_past_64_bits_is_refused_whatever_the_sum")
class LargeAmountTakenWhereTheSumFits(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        if amount == 2**63 and self.exists(key):
            return super().increment(key, INT_MAX, **ttl) + super().increment(key, 1, **ttl)
        return super().increment(key, amount, **ttl)


@caught_by("test_increment_takes_only_canonical_integers")
class LeadingZerosTaken(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        value = self.get(key)
        if value is not None and value.isdigit() and len(value) < 19:
            self.update(key, lambda _: b"%d" % int(value))
        return super().increment(key, amount, **ttl)


@caught_by("test_increment_takes_only_canonical_integers")
class WhateverIntTakes(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        value = self.get(key)
        if value in {b" 1", b"1 ", b"1\n", b"+1", b"1_000"}:
            self.update(key, lambda _: b"%d" % int(value))
        return super().increment(key, amount, **ttl)


@caught_by("test_increment_takes_only_canonical_integers")
class NoNumberIsZero(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        if self.get(key) == b"":
            self.update(key, lambda _: b"0")
        return super().increment(key, amount, **ttl)


@caught_by("test_an_amount_that_is_no_int_is_refused")
class TrueIsOne(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        return super().increment(key, int(amount) if isinstance(amount, bool) else amount, **ttl)


@caught_by("test_an_amount_that_is_no_int_is_refused")
class FloatsAreCut(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        return super().increment(key, int(amount) if amount == 1.0 else amount, **ttl)


# the end


@caught_by("test_every_method_of_a_closed_store_says_so")
class ReadableAfterClose(Tiny):
    def get(self, key: str, default: Any = None) -> Any:
        try:
            return super().get(key, default)
        except StoreClosed:
            return default


@caught_by("test_every_method_of_a_closed_store_says_so")
class NothingListedAfterClose(Tiny):
    def keys(self, *args: Any, **kwargs: Any) -> list[str]:
        try:
            return super().keys(*args, **kwargs)
        except StoreClosed:
            return []


@caught_by("test_closing_twice_is_harmless")
class CloseTwiceFails(Tiny):
    def _close(self) -> None:
        if self._table.closed:
            raise StoreClosed("closed already")
        super()._close()


@caught_by("test_leaving_with_closes_and_lets_the_error_out")
class WithDoesNotClose(Tiny):
    def __exit__(self, *error: object) -> None:
        pass


@caught_by("test_a_new_store_is_empty")
class SchemaAmongTheEntries(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.put("version", b"1")


@caught_by("test_delete_many_deletes_hundreds")
class DeleteManyOfNineHundredAndNinetyNine(Tiny):
    def delete_many(self, keys: Any) -> int:
        return super().delete_many([*keys][:999])


@caught_by("test_increment_is_by_one_where_nothing_is_said")
class IntegersInHexadecimal(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        total = super().increment(key, amount, **ttl)
        self.update(key, lambda _: b"%x" % total if total > 0 else b"%d" % total)
        return total


@caught_by("test_increments_of_two_keys_are_two")
class OneCounterForAllKeys(Tiny):
    def increment(self, key: str, amount: int = 1, **ttl: Any) -> int:
        return super().increment(key[:3], amount, **ttl)
