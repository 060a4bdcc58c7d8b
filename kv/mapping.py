"""A sync store as a `MutableMapping`, for code that takes a dict. Each operation is one of the store's own."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from .base import PAGE, BaseStore
from .errors import InvalidKey, KeyNotFound
from .typedstore import TypedStore

if TYPE_CHECKING:
    from .store import Store

__all__ = ["as_mapping"]

V = TypeVar("V")

_MISSING: Final[Any] = object()


@overload
def as_mapping(store: TypedStore[V]) -> MutableMapping[str, V]: ...
@overload
def as_mapping(store: Store) -> MutableMapping[str, bytes]: ...
def as_mapping(store: Any) -> MutableMapping[str, Any]:
    """Give a store as a `MutableMapping`: of bytes, or of the values of a typed store.

    It is the store, not a copy: others' changes show, and every access is a call on it. `KeyNotFound` is a `KeyError`.
    Iteration is in the order of the keys, a page at a time, and is no snapshot; `len` counts. `update` is all or nothing.

    Raises:
        TypeError: the store is async, as no mapping can be; or is no store.
    """
    if hasattr(store, "aclose"):
        raise TypeError("as_mapping takes a sync store: a mapping's methods cannot be awaited; open it with kv.open()")
    if not hasattr(store, "compare_and_set"):
        raise TypeError(f"as_mapping takes a kv.Store or a kv.TypedStore, not {type(store).__name__}")
    return _StoreMapping(store)


class _StoreMapping(MutableMapping[str, V]):
    def __init__(self, store: Any) -> None:
        self._store = store

    def __getitem__(self, key: str) -> V:
        return self._found(self._store.get(key, _MISSING), key)

    def __setitem__(self, key: str, value: V) -> None:
        self._store.set(key, value)

    def __delitem__(self, key: str) -> None:
        if not self._store.delete(key):
            raise KeyNotFound(f"no entry {key!r}")

    def __contains__(self, key: object) -> bool:
        try:
            return bool(self._store.exists(key))
        except InvalidKey:  # what no store can hold is not in this one
            return False

    def __iter__(self) -> Iterator[str]:
        store = self._store.store if isinstance(self._store, TypedStore) else self._store
        if isinstance(store, BaseStore):  # which knows how to read on where there is no order
            for page in store._pages(""):
                yield from page
            return
        last = None
        while page := store.keys(after=last, limit=PAGE):
            yield from page
            last = page[-1]

    def __len__(self) -> int:
        return int(self._store.count())

    def items(self) -> ItemsView[str, V]:
        return _Items(self)

    def values(self) -> ValuesView[V]:
        return _Values(self)

    def scan(self) -> Iterator[tuple[str, V]]:
        """Read all entries, a page at a time."""
        entries: Iterator[tuple[str, V]] = self._store.scan()
        return entries

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        value = self._store.pop(key, _MISSING)
        return self._found(value, key) if default is _MISSING else default if value is _MISSING else value

    def popitem(self) -> tuple[str, V]:
        """Remove the first entry and give it: of many callers each gets another."""
        while keys := self._store.keys(limit=1):
            if (value := self._store.pop(keys[0], _MISSING)) is not _MISSING:
                return keys[0], value
        raise KeyNotFound("popitem(): the store is empty")

    def clear(self) -> None:
        self._store.clear()

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Give the value, after storing `default` where there was none: of many callers all get one."""
        while (value := self._store.get(key, _MISSING)) is _MISSING:
            if self._store.add(key, default):
                return default
        return value

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Store all or nothing."""
        pairs = [*(other.items() if isinstance(other, Mapping) else _pairs(other)), *more.items()]
        self._store.set_many(pairs)

    def _found(self, value: V, key: str) -> V:
        if value is _MISSING:
            raise KeyNotFound(f"no entry {key!r}")
        return value

    def __repr__(self) -> str:
        return f"<as_mapping {self._store!r}>"


def _pairs(other: Any) -> Iterable[tuple[str, Any]]:
    """Read what `dict.update` takes."""
    return ((key, other[key]) for key in other.keys()) if hasattr(other, "keys") else other  # noqa: SIM118


class _Items(ItemsView[str, V]):
    _mapping: _StoreMapping[V]

    def __iter__(self) -> Iterator[tuple[str, V]]:
        return self._mapping.scan()


class _Values(ValuesView[V]):
    _mapping: _StoreMapping[V]

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._mapping.scan())
