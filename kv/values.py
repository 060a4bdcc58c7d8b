"""Values, and what `update` may make of them: pure functions, the same for every backend and both colours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from .errors import IntegerOverflow, InvalidKey, InvalidValue, NotAnInteger
from .keys import check_key, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .store import UpdateFn, UpdateManyFn, Value

    OwnFn = Callable[[bytes | None], bytes | None]
    ManyFn = Callable[[dict[str, bytes]], dict[str, bytes]]

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1

_canonical = re.compile(rb"0|-?[1-9][0-9]{0,18}").fullmatch


def check_value(value: object, key: object) -> bytes:
    """Give the value for a key as `bytes` of its own, or raise `InvalidValue`."""
    if type(value) is bytes:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    what = f"the value for {shown(key)}" if isinstance(key, str) else "a value"
    if isinstance(value, str):
        raise InvalidValue(f"{what} must be bytes, not str; encode it, or store any type through kv.typed(store)")
    raise InvalidValue(
        f"{what} must be bytes, bytearray or memoryview, not {type(value).__name__}; kv.typed(store) takes other types"
    )


def check_items(
    items: Mapping[str, Any] | Iterable[tuple[str, Any]], check: Callable[[Any, Any], bytes] = check_value
) -> dict[str, bytes]:
    """Give the entries as a dict, of a key that comes twice the last, or raise `InvalidKey` or `InvalidValue`."""
    if isinstance(items, Mapping):
        return {check_key(key): check(value, key) for key, value in items.items()}
    if not hasattr(items, "__iter__"):
        raise InvalidValue(f"items must be a mapping, or pairs of key and value, not {type(items).__name__}")
    entries = {}
    for pair in items:
        try:
            key, value = pair
        except (TypeError, ValueError):
            raise InvalidValue("items must be a mapping, or pairs of key and value; one of these is no pair") from None
        entries[check_key(key)] = check(value, key)
    return entries


def check_compared(expected: Value | None, value: Value | None, key: str) -> tuple[bytes | None, bytes | None]:
    """Give both values of `compare_and_set`, or raise `InvalidValue`."""
    return None if expected is None else check_value(expected, key), None if value is None else check_value(value, key)


def to_int(value: bytes, key: str) -> int:
    """Read a canonical decimal integer within 64 bits, or raise `NotAnInteger`."""
    if not _canonical(value) or not INT_MIN <= (number := int(value)) <= INT_MAX:
        raise not_an_integer(key)
    return number


def not_an_integer(key: str) -> NotAnInteger:
    """The error for a value that `increment` cannot add to."""
    return NotAnInteger(
        f"the value of {key!r} is not a canonical decimal integer within 64 bits, like b'42' or b'-7'; "
        "increment() left it as it was"
    )


def check_amount(amount: object, key: str) -> int:
    """Give the amount of an `increment`, or raise `TypeError` or `IntegerOverflow`."""
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise TypeError(f"amount must be an int, not {type(amount).__name__}")
    return check_sum(int(amount), key)


def check_sum(number: int, key: str) -> int:
    """Give the number, or raise `IntegerOverflow` where it leaves 64 bits."""
    if not INT_MIN <= number <= INT_MAX:
        raise overflow(key)
    return number


def overflow(key: str) -> IntegerOverflow:
    """The error for a sum, or an amount, that leaves 64 bits."""
    return IntegerOverflow(f"increment({key!r}) would leave the 64 bits of a signed integer; nothing has changed")


class Unchanged(Exception):
    """Raised inside `update` to leave the entry as it is."""


def if_absent(value: bytes) -> OwnFn:
    """What `add` does."""

    def fn(current: bytes | None) -> bytes:
        if current is not None:
            raise Unchanged
        return value

    return fn


def if_present(current: bytes | None) -> bytes:
    """What `expire` does: the same value."""
    if current is None:
        raise Unchanged
    return current


def if_equal(expected: bytes | None, value: bytes | None) -> OwnFn:
    """What `compare_and_set` does."""

    def fn(current: bytes | None) -> bytes | None:
        if current != expected:
            raise Unchanged
        return value

    return fn


def plus(amount: int, key: str) -> Callable[[bytes | None], bytes]:
    """What `increment` does."""

    def fn(current: bytes | None) -> bytes:
        return b"%d" % check_sum(amount + (to_int(current, key) if current is not None else 0), key)

    return fn


class Look:
    """What `get_many` gives `update_many`: it takes what is found, and changes nothing."""

    def __init__(self) -> None:
        self.found: dict[str, bytes] = {}

    def __call__(self, found: dict[str, bytes]) -> dict[str, bytes]:
        self.found = found
        raise Unchanged


def check_fn(fn: object, method: str = "update") -> None:
    """Raise `TypeError` where `fn` is not a plain function; a coroutine is found before it is made."""
    if not callable(fn):
        raise TypeError(f"{method}() takes a function, not {type(fn).__name__}")
    target: Any = fn
    while isinstance(target, partial):
        target = target.func
    for candidate in (target, vars(type(target)).get("__call__")):
        if getattr(getattr(candidate, "__code__", None), "co_flags", 0) & 0x280:  # inspect's CO_COROUTINE, async gen
            raise TypeError(f"{method}() takes a plain function, not a coroutine function; do the awaiting before it")


def call(fn: Callable[[Any], Any], argument: object) -> Any:
    """Call a user's function, and refuse a coroutine that it made after all."""
    result = fn(argument)
    if isinstance(result, CoroutineType):
        result.close()
        raise TypeError("the function given to update() returned a coroutine; it must return the value itself")
    return result


def updated(fn: UpdateFn, current: bytes | None, key: str) -> bytes | None:
    """Run the function of `update` on the value of a key."""
    result = call(fn, current)
    return None if result is None else check_value(result, key)


def of_one(fn: UpdateFn, key: str) -> ManyFn:
    """Give the function of `update` as one of `update_many`, that checks what comes of it."""

    def one(found: dict[str, bytes]) -> dict[str, bytes]:
        new = updated(fn, found.get(key), key)
        return {} if new is None else {key: new}

    return one


def of_many(fn: UpdateManyFn, keys: Iterable[str]) -> ManyFn:
    """Give the function of `update_many` as one that checks what comes of it."""
    asked = set(keys)

    def many(found: dict[str, bytes]) -> dict[str, bytes]:
        result = call(fn, dict(found))
        if not isinstance(result, Mapping):
            raise InvalidValue(f"the function given to update_many() must return a dict, not {type(result).__name__}")
        answer = check_items(result)
        for key in answer.keys() - asked:
            raise InvalidKey(f"the function given to update_many() returned the key {key!r}, which was not asked for")
        return answer

    return many
