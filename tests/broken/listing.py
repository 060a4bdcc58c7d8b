"""Broken: order, prefixes, globs, pages, scans and namespaces."""

# mypy: disable-error-code="override, arg-type, return-value, func-returns-value, index, assignment"

from __future__ import annotations

import fnmatch
import re
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from tiny import TinyStore

import kv
from broken.base import Tiny, caught_by
from kv.expiry import ttl_ms
from kv.keys import Listing, check_key
from kv.values import check_value

if TYPE_CHECKING:
    from collections.abc import Iterator


class Naive(Tiny):
    """A store that lists by reading everything; a fault is one function of it."""

    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        Listing(prefix, match, after, limit)
        rest = [key for key in self.order(super().keys()) if self.begins(key, prefix)]
        rest = [key for key in rest if match is None or self.matches(key, match)]
        return self.first(rest if after is None else self.behind(rest, after), limit)

    def order(self, keys: list[str]) -> list[str]:
        return keys

    def begins(self, key: str, prefix: str) -> bool:
        return key.startswith(prefix)

    def matches(self, key: str, match: str) -> bool:
        listing = Listing(match=match)
        return not listing.empty and listing.matches is not None and listing.matches(key)

    def behind(self, keys: list[str], after: str) -> list[str]:
        return [key for key in keys if key > after]

    def first(self, keys: list[str], limit: int | None) -> list[str]:
        return keys[:limit]


def like(key: str, prefix: str) -> bool:
    pattern = re.escape(prefix).replace("%", ".*").replace("_", ".")
    return re.match(pattern, key, re.DOTALL) is not None


def backtracking(key: str, match: str) -> bool:
    return re.fullmatch(re.escape(match).replace(r"\*", ".*"), key) is not None


def from_here(keys: list[str], after: str) -> list[str]:
    return keys[keys.index(after) + 1 :] if after in keys else []


for _name, _check, _part, _fault in [
    ("KeysUnsorted", "keys_come_sorted_by_code_point", "order", lambda _, keys: sorted(keys, key=hash)),
    ("KeysInReverse", "keys_come_sorted_by_code_point", "order", lambda _, keys: keys[::-1]),
    ("KeysSortedByLocale", "keys_come_sorted_by_code_point", "order", lambda _, keys: sorted(keys, key=str.casefold)),
    (
        "KeysSortedByUTF16",
        "keys_come_sorted_by_code_point",
        "order",
        lambda _, keys: sorted(keys, key=lambda key: key.encode("utf-16-be")),
    ),
    ("WildcardsInAPrefix", "a_prefix_is_literal", "begins", lambda _, key, prefix: like(key, prefix)),
    ("PrefixInAnyCase", "a_prefix_is_literal", "begins", lambda _, key, start: key.lower().startswith(start.lower())),
    (
        "PrefixEndsAtUFFFF",
        "a_prefix_may_be_any_key",
        "begins",
        lambda _, key, prefix: prefix <= key < prefix + "\uffff",
    ),
    ("PrefixAnywhere", "a_prefix_is_literal", "begins", lambda _, key, prefix: prefix in key),
    ("AfterInclusive", "after_is_exclusive", "behind", lambda _, keys, after: [key for key in keys if key >= after]),
    (
        "KeyAfterAPageLost",
        "after_and_limit_page_through_every_key_once",
        "behind",
        lambda _, keys, after: [*keys][keys.index(after) + 2 :] if after in keys else keys,
    ),
    (
        "AfterByUTF16",
        "after_may_be_any_key",
        "behind",
        lambda _, keys, after: [key for key in keys if key.encode("utf-16-be") > after.encode("utf-16-be")],
    ),
    ("AfterMustExist", "after_need_not_exist", "behind", lambda _, keys, after: from_here(keys, after)),
    (
        "LimitOffByOne",
        "limit_counts_what_is_given_back",
        "first",
        lambda _, keys, limit: keys if limit is None else keys[: limit + 1],
    ),
    ("NoLimitOfNone", "limit_counts_what_is_given_back", "first", lambda _, keys, limit: keys[: limit or None]),
    ("ThousandKeysAtMost", "listings_of_thousands_are_whole", "first", lambda _, keys, limit: keys[: limit or 1_000]),
    ("GlobOfFnmatch", "a_glob_matches_the_whole_key", "matches", lambda _, *both: fnmatch.fnmatchcase(*both)),
    (
        "GlobInAnyCase",
        "a_glob_matches_the_whole_key",
        "matches",
        lambda self, key, match: Naive.matches(self, key.lower(), match.lower()),
    ),
    (
        "GlobMatchesTheBeginning",
        "a_glob_matches_the_whole_key",
        "matches",
        lambda self, key, match: Naive.matches(self, key, match + "*"),
    ),
    (
        "GlobTriesEveryWay",
        "a_glob_takes_no_longer_than_key_times_pattern",
        "matches",
        lambda _, *both: backtracking(*both),
    ),
]:
    caught_by(f"test_{_check}")(type(_name, (Naive,), {_part: _fault}))


@caught_by("test_limit_counts_what_is_given_back")
class LimitBeforeMatch(Tiny):
    def keys(self, *args: Any, limit: int | None = None, match: str | None = None, **more: Any) -> list[str]:
        rest = {*super().keys(*args, match=match, **more)}
        return [key for key in super().keys(*args, limit=limit, **more) if key in rest]


@caught_by("test_limit_counts_what_is_given_back")
class LimitCountsWhatHasExpired(Tiny):
    def keys(self, *args: Any, limit: int | None = None, **more: Any) -> list[str]:
        rows = sorted(
            key for path, key in self._table.entries if path == self._path and key > (more.get("after") or "")
        )
        live = super().keys(*args, limit=limit, **more)
        return live if limit is None or len(live) < limit else [key for key in live if key in rows[:limit]]


@caught_by("test_a_negative_limit_is_an_error")
class NegativeLimitTaken(Tiny):
    def keys(self, *args: Any, limit: int | None = None, **more: Any) -> list[str]:
        return super().keys(*args, **more)[:limit]


@caught_by("test_with_a_prefix_and_a_glob_both_must_hold")
class PrefixForgottenWithAGlob(Tiny):
    def keys(self, prefix: str = "", *, match: str | None = None, **more: Any) -> list[str]:
        return super().keys("" if match else prefix, match=match, **more)


@caught_by("test_count_is_how_many_keys_there_are")
class CountOfEveryWrite(Tiny):
    writes = 0

    def set(self, *args: Any, **ttl: Any) -> None:
        super().set(*args, **ttl)
        self.writes += 1

    def count(self, *args: Any, **more: Any) -> int:
        return super().count(*args, **more) + self.writes


@caught_by("test_a_glob_matches_the_whole_key")
class CountWithoutTheGlob(Tiny):
    def count(self, prefix: str = "", *, match: str | None = None) -> int:
        return super().count(prefix)


@caught_by("test_a_scan_gives_every_entry_that_lives_all_along_exactly_once")
class ScanByOffset(Tiny):
    def scan(self, *args: Any, **more: Any) -> Iterator[tuple[str, bytes]]:
        Listing(*args, **more)
        read = 0
        while page := [*islice(super().scan(*args, **more), read, read + 100)]:
            yield from page
            read += 100


@caught_by("test_a_scan_does_not_read_the_whole_store_at_once")
class ScanOfEverythingAtOnce(Tiny):
    def scan(self, *args: Any, **more: Any) -> Iterator[tuple[str, bytes]]:
        return iter([(key, bytes(bytearray(value))) for key, value in super().scan(*args, **more)])


@caught_by("test_a_scan_under_way_stops_no_other_call", hangs=True)
class ScanHoldsALock(Tiny):
    def scan(self, *args: Any, **more: Any) -> Iterator[tuple[str, bytes]]:
        with self._table.lock:
            yield from super().scan(*args, **more)


@caught_by("test_an_abandoned_scan_holds_nothing")
class ScanNeverReleased(Tiny):
    scans = 0

    def scan(self, *args: Any, **more: Any) -> Iterator[tuple[str, bytes]]:
        type(self).scans += 1
        assert self.scans <= 10, "no connection left"
        yield from super().scan(*args, **more)
        type(self).scans -= 1


@caught_by("test_a_scan_gives_nothing_past_its_deadline")
class ScanOfPagesReadBefore(Tiny):
    def scan(self, prefix: str = "", *, limit: int | None = None, **more: Any) -> Iterator[tuple[str, bytes]]:
        return islice((entry for page in self._pages(prefix) for entry in self.get_many(page).items()), limit)


@caught_by("test_a_scan_under_way_says_that_the_store_is_closed")
class ScanEndsWithTheStore(Tiny):
    def scan(self, *args: Any, **more: Any) -> Iterator[tuple[str, bytes]]:
        with suppress(kv.StoreClosed):
            yield from super().scan(*args, **more)


@caught_by("test_clear_removes_everything_and_says_how_many")
class ClearOfOnePage(Tiny):
    def clear(self, prefix: str = "") -> int:
        return self.delete_many(self.keys(prefix, limit=100))


@caught_by("test_clear_of_a_prefix_leaves_its_neighbours")
class ClearTakesTheNeighbours(Tiny):
    def clear(self, prefix: str = "") -> int:
        return self.delete_many(key for key in self.keys() if like(key, prefix))


@caught_by("test_a_prefix_that_nothing_has_gives_nothing")
class ClearOfNothingClearsAll(Tiny):
    def clear(self, prefix: str = "") -> int:
        return self.delete_many(self.keys(prefix) or self.keys())


@caught_by("test_keys_give_back_plain_str")
class KeysOfAKindOfStr(Tiny):
    def keys(self, *args: Any, **more: Any) -> list[str]:
        return [*map(type("Key", (str,), {}), super().keys(*args, **more))]


@caught_by("test_scan_gives_keys_and_values")
class ScanGivesLists(Tiny):
    def scan(self, *args: Any, **more: Any) -> Iterator[tuple[str, bytes]]:
        return map(list, super().scan(*args, **more))


# namespaces


@caught_by("test_no_two_namespaces_see_each_other")
class PathJoinedByColons(Tiny):
    def _view(self, path: tuple[str, ...]) -> PathJoinedByColons:
        return super()._view((":".join(path),))


@caught_by("test_no_two_namespaces_see_each_other")
class PathJoinedByNothing(Tiny):
    def _view(self, path: tuple[str, ...]) -> PathJoinedByNothing:
        return super()._view(("".join(path),))


@caught_by("test_no_two_namespaces_see_each_other")
class NamespacesInAnyCase(Tiny):
    def _view(self, path: tuple[str, ...]) -> NamespacesInAnyCase:
        return super()._view(tuple(map(str.lower, path)))


@caught_by("test_what_a_key_holds_never_makes_it_the_key_of_another_namespace")
class NamespaceIsAPrefix(Tiny):
    """`a` and `b` are written `a:b`, as is the root's key of that name."""

    def get(self, key: str, default: Any = None) -> Any:
        entry = self._table.find((), self._flat(key))
        return entry[0] if entry else default

    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        self._table.put((), self._flat(key), check_value(value, key), ttl_ms(ttl))

    def _flat(self, key: str) -> str:
        return ":".join((*self._path, check_key(key)))


@caught_by("test_a_namespace_is_a_store_of_its_own")
class RootSeesEverything(Tiny):
    def count(self, *args: Any, **more: Any) -> int:
        return super().count(*args, **more) if self._path else len(self._table.live())


@caught_by("test_clear_leaves_every_other_namespace_alone")
class ClearTakesTheNamespacesInside(Tiny):
    def clear(self, prefix: str = "") -> int:
        for path, key in self._table.live():
            if len(path) > len(self._path) and path[: len(self._path)] == self._path and not prefix:
                del self._table.entries[path, key]
        return super().clear(prefix)


@caught_by("test_clear_leaves_every_other_namespace_alone")
class ClearTakesTheNamespacesThatBeginAlike(Tiny):
    def clear(self, prefix: str = "") -> int:
        for path, key in self._table.live():
            if self._path and path != self._path and ":".join(path).startswith(":".join(self._path)):
                del self._table.entries[path, key]
        return super().clear(prefix)


@caught_by("test_clear_leaves_every_other_namespace_alone")
class ClearTakesTheWholeStore(Tiny):
    def clear(self, prefix: str = "") -> int:
        count = super().clear(prefix)
        self._table.entries.clear()
        return count


@caught_by("test_namespaces_lists_the_names_directly_below")
class NamespacesOfEveryDepth(Tiny):
    def namespaces(self) -> list[str]:
        return sorted({name for path, _ in self._table.live() for name in path[len(self._path) :]})


@caught_by("test_namespaces_lists_a_name_with_entries_only_below_it")
class NamespacesWithEntriesOfTheirOwn(Tiny):
    def namespaces(self) -> list[str]:
        return [name for name in super().namespaces() if self.namespace(name).count()]


@caught_by("test_namespaces_lists_only_those_with_live_entries")
class NamespacesThatOnceHadEntries(Tiny):
    def namespaces(self) -> list[str]:
        super().namespaces()
        depth = len(self._path)
        paths = [path for path, _ in self._table.entries if len(path) > depth and path[:depth] == self._path]
        return sorted({path[depth] for path in paths})


@caught_by("test_closing_a_view_closes_nothing")
class ClosingAViewClosesTheStore(Tiny):
    def close(self) -> None:
        self._close()


@caught_by("test_two_views_of_one_path_are_one_namespace")
class ViewWithACacheOfItsOwn(Tiny):
    def _view(self, path: tuple[str, ...]) -> ViewWithACacheOfItsOwn:
        view = super()._view(path)
        view.__dict__["cache"] = {}
        return view

    def get(self, key: str, default: Any = None) -> Any:
        cache = self.__dict__.get("cache", {})
        if key not in cache:
            cache[key] = super().get(key)
        return default if cache[key] is None else cache[key]

    def set(self, key: str, value: Any, **ttl: Any) -> None:
        super().set(key, value, **ttl)
        self.__dict__.get("cache", {})[key] = super().get(key)


@caught_by("test_a_name_follows_the_key_rules")
class AnyNameTaken(Tiny):
    def namespace(self, name: Any) -> AnyNameTaken:
        return self._view((*self._path, f"{name}"))


@caught_by("test_a_path_has_an_end")
class EndlessPath(Tiny):
    def namespace(self, name: Any) -> EndlessPath:
        TinyStore().namespace(name)
        return self._view((*self._path, name))
