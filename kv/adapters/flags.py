"""Feature flags: on, off, for a part of the users, and variants for A/B tests."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from kv.errors import KeyNotFound
from kv.keys import check_key, shown

from .records import foreign, pack, unpack
from .steps import check_store, run, run_async, seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from kv.store import AsyncStore, Store

    from .steps import Steps

__all__ = ["AsyncFlags", "Flag", "Flags"]

D = TypeVar("D")


@dataclass(frozen=True)
class Flag:
    """What a flag is set to.

    Raises:
        TypeError: a value is of another type.
        ValueError: `percent` is not from 0 to 100, or the weights are not zero or more with a sum above zero.
    """

    on: bool = True
    percent: float = 100
    """For how many of a hundred users it is on, where it is on."""
    variants: Mapping[str, float] = field(default_factory=dict)
    """The weight of each; they need not add up to anything."""

    def __post_init__(self) -> None:
        if not isinstance(self.on, bool):
            raise TypeError(f"on must be a bool, not {type(self.on).__name__}")
        if not 0 <= _number(self.percent, "percent") <= 100:
            raise ValueError(f"percent must be from 0 to 100, and is {self.percent}")
        if not isinstance(self.variants, Mapping):
            raise TypeError(f"variants must be a mapping of names to weights, not {type(self.variants).__name__}")
        for name, weight in self.variants.items():
            if not isinstance(name, str):
                raise TypeError(f"the name of a variant must be a str, not {type(name).__name__}")
            if not 0 <= _number(weight, f"the weight of {shown(name)}") < math.inf:
                raise ValueError(f"the weight of {shown(name)} must be zero or more, and is {weight}")
        if self.variants and not 0 < sum(self.variants.values()) < math.inf:
            raise ValueError("the weights of the variants must add up to more than zero, and to a number")
        object.__setattr__(self, "variants", dict(self.variants))

    def is_on_for(self, name: str, user: str | None) -> bool:
        """Give whether the flag of this name is on for a user; without one, whether it is on for all."""
        if not self.on or self.percent >= 100:
            return self.on
        return user is not None and place("rollout", name, user) * 100 < self.percent

    def variant_for(self, name: str, user: str) -> str | None:
        """Give the variant of the user; None where there are none, or the flag is not on for him."""
        if not self.variants or not self.is_on_for(name, user):
            return None
        left = place("variant", name, user) * sum(self.variants.values())
        for variant, weight in self.variants.items():
            if left < weight:
                return variant
            left -= weight
        return max(self.variants, key=lambda variant: self.variants[variant])  # where rounding left a gap


def place(salt: str, name: str, user: str) -> float:
    """Give a place from 0 to less than 1, the same at every call, that tells nothing of another salt, name or user."""
    digest = hashlib.sha256()
    for text in (salt, name, user):
        part = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%b" % (len(part), part))
    return int.from_bytes(digest.digest()[:6]) / 2**48  # 48 bits are exact in a float


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be an int or a float, not {type(value).__name__}")
    return value


def _packed(flag: Flag) -> bytes:
    return pack({"on": flag.on, "percent": flag.percent, "variants": [*flag.variants.items()]})


def _read(value: bytes, name: str) -> Flag:
    """Give a flag that is stored, or raise `CorruptData`."""
    facts, rest = unpack(value, name, "a flag")
    try:
        if not rest:
            variants = cast("list[tuple[str, float]]", facts["variants"])
            return Flag(cast("bool", facts["on"]), cast("float", facts["percent"]), dict(variants))
    except (KeyError, TypeError, ValueError):
        pass
    raise foreign(name, "a flag")


_known = lru_cache(4_096)(_read)
"""The same, for those that nobody else is given: they are read far more often than they change."""


def _toggled(name: str) -> Callable[[bytes | None], bytes]:
    """Give the function for `update` that turns a flag on or off."""

    def fn(value: bytes | None) -> bytes:
        if value is None:
            raise _missing(name)
        flag = _read(value, name)
        return _packed(Flag(not flag.on, flag.percent, flag.variants))

    return fn


def _missing(name: str) -> KeyNotFound:
    return KeyNotFound(f"there is no flag {shown(name)}; make it with set()")


def _checked_user(user: object) -> None:
    if not isinstance(user, str):
        raise TypeError(
            f"the user must be a str, not {type(user).__name__}; pass what stands for him, such as str(user.id)"
        )


class _Flags:
    """What both colours share: what is stored, and every step."""

    def __init__(self, store: Any, near: Callable[..., Any], ttl: float | timedelta) -> None:
        self._store = store
        flags, keep = store.namespace("flags"), seconds(ttl, "ttl")
        self._flags = near(flags, ttl=keep) if keep else flags

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._store!r}>"

    def _looking(self, name: str) -> Steps[bytes | None]:
        key = check_key(name, "the name of a flag")
        return (yield lambda: self._flags.get(key))  # type: ignore[no-any-return]

    def _getting(self, name: str) -> Steps[Flag]:
        value = yield from self._looking(name)
        if value is None:
            raise _missing(name)
        return _read(value, name)

    def _asking(self, name: str, user: str | None, default: bool) -> Steps[bool]:
        if user is not None:
            _checked_user(user)
        value = yield from self._looking(name)
        return default if value is None else _known(value, name).is_on_for(name, user)

    def _choosing(self, name: str, user: str, default: object) -> Steps[object]:
        _checked_user(user)
        value = yield from self._looking(name)
        variant = None if value is None else _known(value, name).variant_for(name, user)
        return default if variant is None else variant

    def _setting(self, name: str, on: bool, percent: float, variants: Mapping[str, float] | None) -> Steps[None]:
        key, value = check_key(name, "the name of a flag"), _packed(Flag(on, percent, variants or {}))
        yield lambda: self._flags.set(key, value)

    def _toggling(self, name: str) -> Steps[bool]:
        fn = _toggled(check_key(name, "the name of a flag"))
        value: bytes = yield lambda: self._flags.update(name, fn)
        return _read(value, name).on


class Flags(_Flags):
    """Feature flags that all processes on a store share.

        flags = Flags(store)
        flags.set("new-search", percent=10, variants={"blue": 1, "green": 1})
        if flags.is_on("new-search", user_id): ...

    Who is in a rollout, and who sees which variant, follows from the names of flag and user alone: it is the same in every
    process and after every restart, a larger `percent` only adds users, and flags are independent of each other. Variants
    move as little as their weights: who sees the first one still does when its part grows.

    Args:
        store: an open store. It is not closed here. Flags lie in its namespace `flags`.
        ttl: for how many seconds, or which `timedelta`, what was read is used again, by way of `kv.wrappers.NearCache`: so late
            a change by another process is seen at most. 0: not at all, each question is a call on the store.
    """

    def __init__(self, store: Store, *, ttl: float | timedelta = 5.0) -> None:
        check_store(store, self, "close")
        from kv.wrappers.nearcache import NearCache

        super().__init__(store, NearCache, ttl)

    def set(
        self, name: str, on: bool = True, *, percent: float = 100, variants: Mapping[str, float] | None = None
    ) -> None:
        """Make a flag, or set all of it anew. One call.

        Args:
            name: any key.
            on: False: it is off for everybody.
            percent: for how many of a hundred users it is on; 0.5 is one of two hundred.
            variants: weights by name; of those for whom the flag is on each sees one.

        Raises:
            ValueError: `percent` or the weights are out of range.
        """
        run(self._setting(name, on, percent, variants))

    def is_on(self, name: str, user: str | None = None, default: bool = False) -> bool:
        """Give whether a flag is on for a user; without one, whether it is for all. `default`: where there is no such flag.

        No call on the store where the flag was read within the ttl, else one.

        Raises:
            CorruptData: what is stored is no flag.
        """
        return run(self._asking(name, user, default))

    @overload
    def variant(self, name: str, user: str) -> str | None: ...
    @overload
    def variant(self, name: str, user: str, default: D) -> str | D: ...
    def variant(self, name: str, user: str, default: object = None) -> object:
        """Give the variant that a user sees; `default` where the flag is not on for him, missing, or has none. As `is_on`."""
        return run(self._choosing(name, user, default))

    def toggle(self, name: str) -> bool:
        """Turn a flag off, or on again, and change nothing else. Gives whether it is on now. One atomic call.

        Raises:
            KeyNotFound: there is no such flag.
            CorruptData: what is stored is no flag; it was left as it is.
        """
        return run(self._toggling(name))

    def get(self, name: str) -> Flag:
        """Give what a flag is set to, as `is_on` sees it.

        Raises:
            KeyNotFound: there is no such flag.
        """
        return run(self._getting(name))

    def all(self) -> dict[str, Flag]:
        """Give all flags by name, sorted, as they are stored now."""
        return {name: _read(value, name) for name, value in self._flags.scan()}

    def delete(self, name: str) -> bool:
        """Remove a flag. Gives whether there was one. One call."""
        return cast("bool", self._flags.delete(name))


class AsyncFlags(_Flags):
    """See `Flags`."""

    def __init__(self, store: AsyncStore, *, ttl: float | timedelta = 5.0) -> None:
        check_store(store, self, "aclose")
        from kv.wrappers.nearcache import AsyncNearCache

        super().__init__(store, AsyncNearCache, ttl)

    async def set(
        self, name: str, on: bool = True, *, percent: float = 100, variants: Mapping[str, float] | None = None
    ) -> None:
        """See `Flags.set`."""
        await run_async(self._setting(name, on, percent, variants))

    async def is_on(self, name: str, user: str | None = None, default: bool = False) -> bool:
        """See `Flags.is_on`."""
        return await run_async(self._asking(name, user, default))

    @overload
    async def variant(self, name: str, user: str) -> str | None: ...
    @overload
    async def variant(self, name: str, user: str, default: D) -> str | D: ...
    async def variant(self, name: str, user: str, default: object = None) -> object:
        """See `Flags.variant`."""
        return await run_async(self._choosing(name, user, default))

    async def toggle(self, name: str) -> bool:
        """See `Flags.toggle`."""
        return await run_async(self._toggling(name))

    async def get(self, name: str) -> Flag:
        """See `Flags.get`."""
        return await run_async(self._getting(name))

    async def all(self) -> dict[str, Flag]:
        """See `Flags.all`."""
        return {name: _read(value, name) async for name, value in self._flags.scan()}

    async def delete(self, name: str) -> bool:
        """See `Flags.delete`."""
        return cast("bool", await self._flags.delete(name))
