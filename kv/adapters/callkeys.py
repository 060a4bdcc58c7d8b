"""Keys of calls: a function and its arguments as one text, the same in every process, for equal arguments only. Pure."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import hashlib
import pathlib
import uuid
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Iterable, Mapping

MAX: Final = 200
"""The longest key, in bytes, that is left readable."""
_NAME: Final = 60
"""How many characters of the function's name stand before a digest."""

_as_written = frozenset(
    {bool, float, str, bytes, type(None), dt.date, dt.timedelta, dt.timezone, decimal.Decimal, uuid.UUID}
)
"""Types whose `repr` is all there is to know, and printable. Not their subclasses, which may mean something else."""


def named(fn: Callable[..., object]) -> str:
    """Give a function's name, or raise `TypeError` where it has none of its own."""
    name = getattr(fn, "__qualname__", "")
    if not name or name.endswith("<lambda>"):
        raise TypeError("this function has no name of its own to make keys of; pass key=")
    return f"{fn.__module__}.{name}"


def made(name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Give the key of a call: with readable arguments where they are short, else with a digest of all.

    Raises:
        TypeError: the function takes no such arguments, or one of them has no stable form.
    """
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    parts = []
    for argument, value in bound.arguments.items():
        try:
            parts.append(f"{argument}={written(value)}")
        except RecursionError:
            raise TypeError(f"the argument {argument!r} of {name} holds itself, or is nested too deep") from None
        except TypeError as e:
            raise TypeError(f"the argument {argument!r} of {name} makes no key: {e}; pass key=") from None
    text = f"{name}({', '.join(parts)})"
    if len(text.encode()) <= MAX:
        return text
    return f"{name[:_NAME]}#{hashlib.sha256(text.encode()).hexdigest()}"


def written(value: object) -> str:
    """Give a value as text with no control characters, that no other value has. `TypeError` where it has no stable form."""
    kind = type(value)
    if kind in _as_written:
        return repr(value)
    if kind is int:
        return _integer(value)
    if kind is tuple:
        return f"({_listed(value)},)"
    if kind is list:
        return f"[{_listed(value)}]"
    if kind is set or kind is frozenset:
        return f"{kind.__name__}({', '.join(sorted(map(written, _items(value))))})"
    if isinstance(value, dict) and kind is dict:
        return f"{{{', '.join(sorted(f'{written(k)}: {written(v)}' for k, v in value.items()))}}}"
    if isinstance(value, dt.datetime | dt.time) and kind in (dt.datetime, dt.time):
        plain = value.replace(tzinfo=None)  # its repr says the fold too
        return f"{plain!r}@{_zone(value.tzinfo)}"
    if isinstance(value, enum.Enum):
        return f"{_of(kind)}[{value.name!r}]" if value.name else f"{_of(kind)}({written(value.value)})"
    if isinstance(value, pathlib.PurePath):
        return f"{kind.__name__}({str(value)!r})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f"{f.name}={written(getattr(value, f.name))}" for f in dataclasses.fields(value) if f.compare]
        return f"{_of(kind)}({', '.join(fields)})"
    raise TypeError(f"{_of(kind)} has no form that is the same in every process")


def _integer(value: Any) -> str:
    return str(value) if value.bit_length() < 2_000 else hex(value)  # of more digits Python may refuse


def _items(value: Any) -> Iterable[object]:
    return value  # type: ignore[no-any-return]


def _listed(value: Any) -> str:
    return ", ".join(map(written, value))


def _zone(zone: dt.tzinfo | None) -> str:
    if zone is None or type(zone) is dt.timezone:
        return repr(zone)
    if isinstance(key := getattr(zone, "key", None), str):  # zoneinfo's
        return repr(key)
    raise TypeError(f"the time zone {_of(type(zone))} has no form that is the same in every process")


def _of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
