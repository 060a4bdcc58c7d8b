"""What the broken stores start from, and where they are registered."""

# mypy: disable-error-code="override"

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, TypeVar

from tiny import TinyStore

from kv.keys import check_keys

if TYPE_CHECKING:
    from collections.abc import Callable

S = TypeVar("S", bound="type[Any]")

BROKEN: dict[str, tuple[type[Any], str, bool]] = {}
"""By name: the store, the check, and whether it makes the check wait forever."""


def caught_by(check: str, *, hangs: bool = False) -> Callable[[S], S]:
    """Register a broken store with the check that finds it."""

    def register(store: S) -> S:
        assert store.__name__ not in BROKEN
        BROKEN[store.__name__] = (store, check, hangs)
        return store

    return register


class Tiny(TinyStore):
    """A right store with a few ways past its own rules, for those that break one."""

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, default)

    def get_many(self, keys: Any) -> dict[str, bytes]:
        with self._table.lock:
            return {key: value for key in check_keys(keys) if (value := Tiny.get(self, key)) is not None}

    def delete_many(self, keys: Any) -> int:
        with self._table.lock:
            return sum(map(self.delete, check_keys(keys)))

    def row(self, key: str) -> tuple[bytes, float] | None:
        """What is stored, expired or not."""
        return self._table.entries.get((self._path, key))

    def put(self, key: str, value: bytes, deadline: float = math.inf) -> None:
        self._table.entries[self._path, key] = (value, deadline)


def network() -> None:
    """As the way to a server would, give others the time to come in between."""
    time.sleep(0.0005)
