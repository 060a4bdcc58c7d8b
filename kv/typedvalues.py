"""What both colours of a typed store share: values as bytes, and what is given to the store's `update`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .codecs import alike, decoded, encoded
from .errors import CorruptData, InvalidValue, KeyNotFound
from .values import Unchanged, call, check_amount, check_fn, check_items, check_sum, not_an_integer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from .codecs import Codec
    from .store import UpdateFn, UpdateManyFn

    ManyFn: TypeAlias = "Callable[[dict[str, T]], Mapping[str, T]]"
    Items: TypeAlias = "Mapping[str, T] | Iterable[tuple[str, T]]"

T = TypeVar("T")


class Typed(Generic[T]):
    """What both colours share: values as bytes, and what is given to the store's `update`. Pure."""

    store: Any
    """The store of the bytes."""
    codec: Codec[T]

    def _encode(self, value: T, key: str) -> bytes:
        return encoded(self.codec, value, key)

    def _decode(self, data: bytes, key: str) -> T:
        return decoded(self.codec, data, key)

    def _or(self, data: bytes | None, key: str, default: Any) -> Any:
        return default if data is None else self._decode(data, key)

    def _required(self, data: bytes | None, key: str) -> T:
        if data is None:
            raise KeyNotFound(f"no entry {key!r}")
        return self._decode(data, key)

    def _decode_all(self, entries: Mapping[str, bytes]) -> dict[str, T]:
        return {key: self._decode(data, key) for key, data in entries.items()}

    def _encode_all(self, items: Items[T]) -> dict[str, bytes]:
        return check_items(items, self._encode)

    def _wrong(self, data: bytes | None, key: str) -> list[str]:
        """Name an entry that does not decode."""
        try:
            self._or(data, key, None)
        except CorruptData as e:
            return [str(e)]
        return []

    def _one(self, key: str, fn: Callable[[Any], T | None], default: object) -> UpdateFn:
        """What `update` does."""
        check_fn(fn)

        def one(data: bytes | None) -> bytes | None:
            current = self._or(data, key, default)
            new = call(fn, current)
            if new is None:
                return data if current is None else None  # a null stays where it was one, and nothing where nothing was
            return self._encode(new, key)

        return one

    def _many(self, fn: ManyFn[T]) -> UpdateManyFn:
        """What `update_many` does."""
        check_fn(fn, "update_many")

        def many(found: dict[str, bytes]) -> Mapping[str, bytes]:
            answer = call(fn, self._decode_all(found))
            return self._encode_all(answer) if isinstance(answer, Mapping) else answer  # which the store refuses

        return many

    def _if_equal(self, key: str, expected: T | None, value: T | None) -> UpdateFn:
        """What `compare_and_set` does."""
        there = None if expected is None else self._encode(expected, key)
        wanted = None if there is None else self._decode(there, key)  # as it would come back
        new = None if value is None else self._encode(value, key)

        def one(data: bytes | None) -> bytes | None:
            if data != there and (data is None or there is None or not alike(self._decode(data, key), wanted)):
                raise Unchanged
            return new

        return one

    def _take(self, key: str, taken: list[Any]) -> UpdateFn:
        """What `pop` does: read, so that nothing is deleted that nobody can read, and then delete."""

        def one(data: bytes | None) -> None:
            if data is None:
                raise Unchanged
            taken[:] = [self._decode(data, key)]

        return one

    def _plus(self, key: str, amount: int) -> UpdateFn:
        """What `increment` does where integers are not stored as the store's own wants them."""
        amount = check_amount(amount, key)

        def one(data: bytes | None) -> bytes:
            current: Any = self._or(data, key, 0)
            if type(current) is not int or check_sum(current, key) != current:
                raise not_an_integer(key)
            stored = self._encode(check_sum(current + amount, key), key)  # type: ignore[arg-type]
            if type(self._decode(stored, key)) is not int:
                raise InvalidValue(f"increment({key!r}) would store an integer, and the values here are none")
            return stored

        return one

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.store!r}>"
