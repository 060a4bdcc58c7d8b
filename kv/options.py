"""Options of stores: what a value may be, the same from a URL's query and from a keyword. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Check = Callable[[object], object]

LONGEST: Final = 100_000_000
"""The most seconds of an interval or a timeout: three years."""

_OFF = ("", "0", "off", "none", "never")
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


def seconds(value: object) -> float:
    """A positive number of seconds."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not 0 < number <= LONGEST:
        raise ValueError(f"expected a positive number of seconds, {LONGEST:,} at most")
    return number


def seconds_or_off(value: object) -> float | None:
    """A positive number of seconds; None, 0 and "off" mean off."""
    return None if _off(value) else seconds(value)


def _off(value: object) -> bool:
    return value is None or value == 0 or (isinstance(value, str) and value.lower() in _OFF)


def count_or_off(value: object) -> int | None:
    """A positive whole number; None, 0 and "off" mean off."""
    if _off(value):
        return None
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("expected a positive whole number")
    return value


def whole(least: int) -> Check:
    """A whole number, not less than this."""

    def check(value: object) -> int:
        if isinstance(value, str) and value.isascii() and value.isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LONGEST:
            raise ValueError(f"expected a whole number, {least} or more")
        return value

    return check


def flag(value: object) -> bool:
    """A bool, or its usual spellings."""
    if isinstance(value, bool):
        return value
    if str(value).lower() in _TRUE:
        return True
    if str(value).lower() in _FALSE:
        return False
    raise ValueError("expected true or false")


def one_of(*names: str) -> Check:
    """One of these words."""

    def check(value: object) -> object:
        if value not in names:
            raise ValueError(f"expected {' or '.join(names)}")
        return value

    return check


def names(value: object) -> object:
    """A namespace, or the names of nested ones; or another name, whose rules apply where it is used."""
    return value


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not known, with the nearest one that is."""
    from difflib import get_close_matches  # only the way to an error needs it

    known = sorted(known)
    near = get_close_matches(name, known, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown {what} {name!r}.{hint} Known: {', '.join(known)}")


def checked(given: Mapping[str, object], checks: Mapping[str, Check], what: str) -> dict[str, object]:
    """Give the options with their types, or raise `ConfigError` for a name or a value that is not right."""
    result = {}
    for name, value in given.items():
        if name not in checks:
            raise unknown(f"option of {what}", name, checks)
        try:
            result[name] = checks[name](value)
        except ValueError as e:
            if isinstance(e, ConfigError):
                raise
            raise ConfigError(f"option {name}={value!r} for {what}: {e}") from None
    return result
