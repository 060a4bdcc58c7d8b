"""A store whose entries live no longer, and no shorter, than it says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from kv.errors import ConfigError, InvalidTTL
from kv.expiry import KEEP_TTL, ttl_ms, wall_ms
from kv.keys import check_key, shown

from .base import AsyncWrapper, Wrapper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from kv.expiry import TTL, Keep
    from kv.store import AsyncStore, Record, Store

__all__ = ["AsyncTTLLimits", "TTLLimits"]

T = TypeVar("T")
P = ParamSpec("P")


class _Limits:
    """What both colours share. Pure."""

    _default: TTL
    _least: int | None
    _most: int | None

    def _limit(self, default: TTL, least: TTL, most: TTL) -> None:
        self._default, self._least, self._most = self.check_options(default, least, most)

    @staticmethod
    def check_options(
        default: TTL = None,
        min: TTL = None,
        max: TTL = None,
    ) -> tuple[TTL, int | None, int | None]:
        """Give the limits in milliseconds, or raise `ConfigError` where they contradict each other."""
        try:
            stands, least, most = ttl_ms(default), ttl_ms(min), ttl_ms(max)
        except InvalidTTL as e:
            raise ConfigError(f"a default or limit of ttls: {e}") from None
        if least is not None and most is not None and least > most:
            raise ConfigError(f"the least ttl, {least / 1000:g} s, is more than the longest, {most / 1000:g} s")
        if stands is not None and not (least or 0) <= stands <= (stands if most is None else most):
            raise ConfigError(f"the default ttl, {stands / 1000:g} s, is outside of the limits")
        return default, least, most

    def _within(self, ttl: TTL, *, named: bool = False) -> TTL:
        """Give a ttl as it is used; `named`: None was said, and means never."""
        if ttl is None and not named:
            ttl = self._default
        ms = ttl_ms(ttl)
        if ms is None:
            return None if self._most is None else self._most / 1000
        if self._most is not None and ms > self._most:
            return self._most / 1000
        if self._least is not None and ms < self._least:
            return self._least / 1000
        return ttl

    def _limited(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Give the keywords of a call with the ttls as they are used."""
        if "ttl" not in kwargs:
            return kwargs
        ttl: TTL | Keep = kwargs["ttl"]
        if method == "expire":
            return {**kwargs, "ttl": self._within(ttl, named=True)}  # type: ignore[arg-type]
        if "ttl_if_new" in kwargs:
            created = kwargs["ttl_if_new"]
            if created is None and ttl is not KEEP_TTL:
                created = ttl
            created = self._within(created)
            return {
                "ttl": KEEP_TTL if ttl is KEEP_TTL else self._within(ttl),
                "ttl_if_new": math.inf if created is None else created,  # None would say: what `ttl` says
            }
        if ttl is KEEP_TTL:  # of compare_and_set, which creates where nothing was expected
            creates = method == "compare_and_set" and args[1] is None
            return {**kwargs, "ttl": self._within(None) if creates else ttl}
        return {**kwargs, "ttl": self._within(ttl)}

    def _aged(self, records: Iterable[Record]) -> list[Record]:
        """Give entries that come from another store with deadlines within the limits."""
        now = wall_ms()
        aged = []
        for record in records:
            until = record.expires_at
            if until is None or until > now:
                ms = ttl_ms(self._within(None if until is None else (until - now) / 1000))
                until = None if ms is None else now + ms
            aged.append(record._replace(expires_at=until))
        return aged

    def _refuse_to_persist(self, key: str) -> None:
        if self._most is not None:
            raise InvalidTTL(
                f"{shown(check_key(key))} cannot live for ever: entries of this store live {self._most / 1000:g} s at most; "
                "nothing has changed"
            )


class TTLLimits(_Limits, Wrapper):
    """A `Store` that gives entries a deadline where a call names none, and keeps ttls within limits.

    A ttl above `max`, and never, becomes `max`; one below `min` becomes `min`. `persist` is `InvalidTTL` where there is a
    `max`. `KEEP_TTL` keeps whatever an entry has. `math.inf` is never also where there is a default.

    Args:
        store: what it stands around. Closing this closes it.
        default: seconds or a `timedelta`, for `ttl=None` of a call that stores.
        min: the least ttl.
        max: the longest.

    Raises:
        ConfigError: they contradict each other.
    """

    def __init__(self, store: Store, *, default: TTL = None, min: TTL = None, max: TTL = None) -> None:
        super().__init__(store)
        self._limit(default, min, max)

    def _write(self, keys: Iterable[str] | None, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        limited: Any = self._limited(method.__name__, args, kwargs)
        return super()._write(keys, method, *args, **limited)

    def persist(self, key: str) -> bool:
        self._refuse_to_persist(key)
        return super().persist(key)

    def _load(self, records: Iterable[Record]) -> None:
        super()._load(self._aged(records))


class AsyncTTLLimits(_Limits, AsyncWrapper):
    """See `TTLLimits`."""

    def __init__(self, store: AsyncStore, *, default: TTL = None, min: TTL = None, max: TTL = None) -> None:
        super().__init__(store)
        self._limit(default, min, max)

    async def _write(
        self, keys: Iterable[str] | None, method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        limited: Any = self._limited(method.__name__, args, kwargs)
        return await super()._write(keys, method, *args, **limited)

    async def persist(self, key: str) -> bool:
        self._refuse_to_persist(key)
        return await super().persist(key)

    async def _load(self, records: Iterable[Record]) -> None:
        await super()._load(self._aged(records))
