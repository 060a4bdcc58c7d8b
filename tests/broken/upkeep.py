"""Broken: cleanup, statistics, compaction and verification."""

# mypy: disable-error-code="override, arg-type, return-value, func-returns-value, index, assignment"

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import kv
from broken.base import Tiny, caught_by, network

if TYPE_CHECKING:
    from kv.store import Stats


class Counted(Tiny):
    """A store whose stats tell how many entries have expired."""

    def stats(self) -> Stats:
        stats = super().stats()
        return stats._replace(expired=sum(path == self._path for path, _ in self._table.entries) - stats.keys)


@caught_by("test_cleanup_removes_what_has_expired_and_nothing_else")
class CleanupForgetsToCount(Counted):
    def cleanup(self, *, limit: int | None = None) -> int:
        return super().cleanup(limit=limit) and 1


@caught_by("test_cleanup_removes_what_has_expired_and_nothing_else")
class CleanupTakesWhatWillExpire(Counted):
    def cleanup(self, *, limit: int | None = None) -> int:
        for key in self.keys():
            if self.ttl(key) != float("inf"):
                self.delete(key)
        return super().cleanup(limit=limit)


@caught_by("test_cleanup_of_any_view_is_of_the_whole_store")
class CleanupOfOneNamespace(Counted):
    def cleanup(self, *, limit: int | None = None) -> int:
        old = [where for where in self._table.entries if where[0] == self._path and not self._table.find(*where)]
        for where in old[:limit]:
            del self._table.entries[where]
        return len(old[:limit])


@caught_by("test_cleanup_removes_no_more_than_its_limit")
class CleanupWithoutALimit(Counted):
    def cleanup(self, *, limit: int | None = None) -> int:
        return 0 if limit == 0 else super().cleanup(limit=None if limit and limit > 0 else limit)


@caught_by("test_cleanup_removes_thousands")
class CleanupOfOneBatch(Counted):
    def cleanup(self, *, limit: int | None = None) -> int:
        return super().cleanup(limit=limit or 1_000)


@caught_by("test_cleanup_beside_itself_is_harmless")
class CleanupsCountOneEntryTwice(Counted):
    def cleanup(self, *, limit: int | None = None) -> int:
        old = [where for where in [*self._table.entries] if not self._table.find(*where)][:limit]
        network()
        super().cleanup(limit=limit)
        return len(old)


@caught_by("test_cleanup_removes_nothing_that_has_been_set_again")
class CleanupTakesWhatHasBeenSetAgain(Tiny):
    def cleanup(self, *, limit: int | None = None) -> int:
        old = [where for where in [*self._table.entries] if not self._table.find(*where)][:limit]
        network()
        return sum(self._table.entries.pop(where, None) is not None for where in old)


@caught_by("test_a_new_deadline_outlives_a_cleanup_after_the_old_one")
class CleanupByTheOldDeadline(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.deadlines: list[tuple[float, Any]] = []

    def set(self, key: str, value: Any, **ttl: Any) -> None:
        super().set(key, value, **ttl)
        self.deadlines.append((self.row(key)[1], (self._path, key)))

    def cleanup(self, *, limit: int | None = None) -> int:
        due = [where for deadline, where in self.deadlines if deadline < time.monotonic()]
        return sum(self._table.entries.pop(where, None) is not None for where in due[:limit])


@caught_by("test_stats_count_what_lives_in_this_namespace")
class StatsOfTheWholeStore(Tiny):
    def stats(self) -> Stats:
        return super().stats()._replace(value_bytes=sum(len(value) for value, _ in self._table.entries.values()))


@caught_by("test_stats_count_what_lives_in_this_namespace")
class StatsInCharacters(Tiny):
    def stats(self) -> Stats:
        return super().stats()._replace(key_bytes=sum(map(len, self.keys())))


@caught_by("test_compact_and_verify_change_nothing")
class CompactForgetsDeadlines(Tiny):
    def compact(self) -> None:
        self._table.find((), "-")
        self._table.entries.update({where: (value, float("inf")) for where, (value, _) in self._table.entries.items()})


@caught_by("test_compact_and_verify_change_nothing")
class VerifyFindsWhatIsNotThere(Tiny):
    def verify(self) -> list[str]:
        return [f"{key} has expired" for _, key in self._table.entries if self.get(key) is None]


@caught_by("test_cleanup_never_shows")
class CleanupLeavesTombstones(Tiny):
    tombs: frozenset[Any] = frozenset()

    def cleanup(self, *, limit: int | None = None) -> int:
        self.tombs = frozenset(self._table.entries)
        return super().cleanup(limit=limit)

    def add(self, key: str, value: Any, *, ttl: Any = None) -> bool:
        return super().add(key, value, ttl=ttl) and (self._path, key) not in self.tombs


@caught_by("test_cleanup_removes_thousands")
class MemoryThatCleansOneBatch(kv.MemoryStore):
    def cleanup(self, *, limit: int | None = None) -> int:
        return super().cleanup(limit=min(limit or 500, 500))
