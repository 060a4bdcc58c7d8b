"""The keys of a dict in order, brought up to date when somebody lists them, and not before."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_CHUNK = 1_000
_RELAXED = 1_000
"""So many changes are remembered before it is asked whether starting anew is cheaper."""


class SortedKeys:
    """A sorted view of a mapping's keys, as a list of short sorted lists.

    A change costs one insertion into a set. A listing first applies the changes since the last one, each in O(log n),
    then costs what it gives. Needs a lock around it.
    """

    def __init__(self, mapping: Mapping[str, object]) -> None:
        self._mapping = mapping
        self._chunks: list[list[str]] = []
        self._heads: list[str] = []  # no key of a chunk is less than its head
        self._changed: set[str] | None = None  # keys that came or went; None: nothing is known, read the mapping

    def touch(self, key: str) -> None:
        """Say that the key is about to come or go."""
        changed = self._changed
        if changed is not None:
            changed.add(key)
            if len(changed) > _RELAXED + len(self._mapping):
                self.forget()

    def forget(self) -> None:
        """Give the memory back; the next listing sorts the mapping's keys."""
        self._changed = None
        self._chunks, self._heads = [], []

    def between(self, start: str, stop: str | None, limit: int) -> list[str]:
        """Give at most `limit` keys with `start <= key`, and `key < stop` where there is a stop."""
        self._refresh()
        found: list[str] = []
        i = max(0, bisect_right(self._heads, start) - 1)
        while i < len(self._chunks) and len(found) < limit:
            chunk = self._chunks[i]
            low = bisect_left(chunk, start) if not found else 0
            high = len(chunk) if stop is None else bisect_left(chunk, stop)
            found += chunk[low : min(high, low + limit - len(found))]
            if high < len(chunk):
                break
            i += 1
        return found

    def _refresh(self) -> None:
        changed = self._changed
        if changed is None or len(changed) > _RELAXED + len(self._mapping) // 50:
            self._rebuild(self._mapping.keys() if changed is None else changed)
        else:
            for key in changed:
                self._place(key)
        self._changed = set()

    def _rebuild(self, changed: Collection[str]) -> None:
        # two sorted runs, which list.sort merges in linear time
        keys = [key for chunk in self._chunks for key in chunk if key not in changed]
        keys += sorted(key for key in changed if key in self._mapping)
        keys.sort()
        self._chunks = [keys[i : i + _CHUNK] for i in range(0, len(keys), _CHUNK)]
        self._heads = [chunk[0] for chunk in self._chunks]

    def _place(self, key: str) -> None:
        """Make the key stand where, and only if, the mapping has it."""
        i = max(0, bisect_right(self._heads, key) - 1)
        if i == len(self._chunks):
            self._chunks.append([])
            self._heads.append(key)
        chunk = self._chunks[i]
        at = bisect_left(chunk, key)
        there = at < len(chunk) and chunk[at] == key
        if key in self._mapping:
            if not there:
                chunk.insert(at, key)
                self._heads[i] = chunk[0]
        elif there:
            del chunk[at]
        if len(chunk) > 2 * _CHUNK:
            self._chunks.insert(i + 1, chunk[_CHUNK:])
            self._heads.insert(i + 1, chunk[_CHUNK])
            del chunk[_CHUNK:]
        elif not chunk:
            del self._chunks[i], self._heads[i]
