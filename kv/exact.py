"""What is exactly what it was: plain values, comparison by value and type, and JSON with integers of any size. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterable


class Unfit(ValueError):
    """Why a codec does not take something. Never shows the value."""


SCALARS: Final[frozenset[type]] = frozenset({str, int, float, bool, type(None)})


def check_plain(value: object, scalars: frozenset[type], where: str) -> None:
    """Raise `Unfit` where the value holds something that would come back as something else."""
    level: Iterable[object] = (value,)
    for _ in range(MAX_DEPTH):
        below: dict[int, Iterable[object]] = {}  # each list once, so that one that holds itself twice does not double
        for one in level:
            kind = type(one)
            if kind in scalars:
                if kind is float and not math.isfinite(cast("float", one)):
                    raise Unfit(f"{where} has no {one}")
            elif kind is list:
                below[id(one)] = cast("list[object]", one)
            elif kind is dict:
                for key in cast("dict[object, object]", one):
                    if type(key) is not str:
                        raise Unfit(f"{where} would make a str of a dict's key of type {type(key).__name__}")
                below[id(one)] = cast("dict[str, object]", one).values()
            else:
                raise Unfit(
                    f"{where} would not give a {kind.__name__} back; say of which type the values are, or make it "
                    f"one of {', '.join(sorted(s.__name__.replace('NoneType', 'None') for s in scalars))}, list, dict"
                )
        if not below:
            return
        level = chain.from_iterable(below.values())
    raise Unfit(f"it is nested {MAX_DEPTH} deep or more, or holds itself")


MAX_DEPTH: Final = 200
"""How deep lists and dicts may be nested: few enough that who writes can also read, with a deep stack of its own."""


def alike(one: object, other: object) -> bool:
    """Give whether two values are equal in all their types too. A whole number may stand for a float, as in Python."""
    kind = type(one)
    if kind is not type(other):
        return kind is float and type(other) is int and one == other
    if kind in ATOMS:
        return one == other
    if kind is list:
        there_too = cast("list[object]", other)
        return len(cast("list[object]", one)) == len(there_too) and all(
            map(alike, cast("list[object]", one), there_too)
        )
    names = _fields(cast("Any", kind))
    if names is not None:
        return all(alike(getattr(one, name, None), getattr(other, name, None)) for name in names)
    if isinstance(one, Mapping):
        there = cast("Mapping[object, object]", other)
        if len(one) != len(there):
            return False
        if not all(type(key) is str for key in one) and set(map(_exact, one)) != set(map(_exact, there)):
            return False
        return all(key in there and alike(value, there[key]) for key, value in one.items())
    if isinstance(one, AbstractSet):
        return set(map(_exact, one)) == set(map(_exact, cast("AbstractSet[object]", other)))
    if isinstance(one, Sequence) and not isinstance(one, str | bytes | bytearray):
        there_too = cast("list[object]", other)
        return len(one) == len(there_too) and all(map(alike, one, there_too))
    if one != other:
        return False
    offset = getattr(one, "utcoffset", None)  # one instant may be told in two zones
    return offset is None or offset() == cast("Any", other).utcoffset()


ATOMS: Final[frozenset[type]] = SCALARS | {bytes}


def _exact(value: object) -> object:
    """Give what is equal to that of another value only where both are of one type."""
    if isinstance(value, tuple):
        return type(value), tuple(map(_exact, cast("tuple[object, ...]", value)))
    return type(value), value


@lru_cache(512)
def _fields(kind: Any) -> Sequence[str] | None:
    """The fields of a dataclass, a Struct, an attrs class or a pydantic model; None for what is none."""
    for names in ("__struct_fields__", "__dataclass_fields__"):
        if (found := getattr(kind, names, None)) is not None:
            return tuple(found)
    if (found := getattr(kind, "__pydantic_fields__", None)) is not None:
        return (*found, "__pydantic_extra__")
    attributes = getattr(kind, "__attrs_attrs__", None)
    return None if attributes is None else [attribute.name for attribute in attributes]


# JSON


def _not_json(constant: str) -> object:
    raise Unfit(f"JSON has no {constant}")


dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_at_once: Final = 640
"""Digits of an integer that Python converts whatever its limit is set to; more of them are done in parts."""
_LARGE: Final = 10**_at_once


def digits(number: int) -> str:
    """Give an integer of any size in decimal."""
    if -_LARGE < number < _LARGE:
        return str(number)
    sign, rest = ("-", -number) if number < 0 else ("", number)
    return sign + _part(rest, _half(rest.bit_length() * 30_103 // 100_000 + 1)).lstrip("0")


def _half(digits: int) -> int:
    """The least power of two times 320 that is half as much or more."""
    size = 320
    while size * 2 < digits:
        size *= 2
    return size


def _part(number: int, size: int) -> str:
    """Give twice so many digits, zeros in front counted in."""
    if size < 320:
        return f"{number:0{2 * size}}"
    high, low = divmod(number, 10**size)
    return _part(high, size // 2) + _part(low, size // 2)


def _integer(text: str) -> int:
    """Read an integer of any size."""
    if len(text) <= _at_once:
        return int(text)
    if text.startswith("-"):
        return -_integer(text[1:])
    middle = len(text) // 2
    power: int = 10 ** (len(text) - middle)
    return _integer(text[:middle]) * power + _integer(text[middle:])


loads = json.JSONDecoder(parse_int=_integer, parse_constant=_not_json).decode


def slowly(value: object) -> str:
    """Give JSON of a value that holds integers of very many digits."""
    kind = type(value)
    if kind is int:
        return digits(cast("int", value))
    if kind is list:
        return f"[{','.join(map(slowly, cast('list[object]', value)))}]"
    if kind is dict:
        return f"{{{','.join(f'{dumps(k)}:{slowly(v)}' for k, v in cast('dict[str, object]', value).items())}}}"
    return dumps(value)
