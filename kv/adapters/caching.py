"""What a cache does, written once for both colours: the steps of `Cache` and `AsyncCache`."""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import random
import secrets
import time
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NamedTuple, TypeVar, overload

from kv.codecs import codec_for, decoded, encoded
from kv.errors import KVError, OutcomeUnknown
from kv.expiry import ttl_ms
from kv.keys import check_key, shown
from kv.values import Unchanged

from .entries import Cached, Entry, Found, Lease, filled, read
from .flights import Flights, work_for_none
from .steps import check_store, lasting, pauses, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta

    from kv.codecs import AnyCodec, Codec
    from kv.expiry import TTL

    from .entries import Stamps
    from .flights import Flight
    from .steps import Steps

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault  # which type-checkers know, wherever they run

    T = TypeVarWithDefault("T", default=Any)
else:
    T = TypeVar("T")

D = TypeVar("D")
S = TypeVar("S")
_log = logging.getLogger("kv.cache")

REFRESHES: Final = 16
"""How many values a cache makes anew in the background at once; others wait for the next who asks for them."""
KEPT: Final = 20
"""For how many times its length a lease is stored: who is late, and was not replaced, may still store his value."""


class Own(enum.Enum):
    """The type of `OWN`."""

    OWN = "the cache's own"

    def __repr__(self) -> str:
        return self.value


OWN: Final = Own.OWN


class Asked(NamedTuple):
    """What `get_or_set` was asked for."""

    key: str
    factory: Callable[[], Any]
    ttl: float
    tags: frozenset[str]


class Caching(ABC, Generic[S, T]):
    """What both colours share: what is stored, and every step."""

    _end: ClassVar[str]

    @overload
    def __init__(
        self,
        store: S,
        kind: type[T],
        *,
        codec: AnyCodec = None,
        ttl: TTL = None,
        stale_while_revalidate: float | timedelta = 0,
        stale_if_error: float | timedelta = 0,
        jitter: float = 0.0,
        processes: bool = False,
        lease: TTL = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None: ...
    @overload
    def __init__(
        self,
        store: S,
        kind: Any = object,
        *,
        codec: AnyCodec = None,
        ttl: TTL = None,
        stale_while_revalidate: float | timedelta = 0,
        stale_if_error: float | timedelta = 0,
        jitter: float = 0.0,
        processes: bool = False,
        lease: TTL = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None: ...
    def __init__(
        self,
        store: Any,
        kind: Any = object,
        *,
        codec: AnyCodec = None,
        ttl: TTL = None,
        stale_while_revalidate: float | timedelta = 0,
        stale_if_error: float | timedelta = 0,
        jitter: float = 0.0,
        processes: bool = False,
        lease: TTL = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_store(store, self, self._end)
        if isinstance(jitter, bool) or not isinstance(jitter, int | float):
            raise TypeError(f"jitter must be a float, not {type(jitter).__name__}")
        if not 0 <= jitter < 1:
            raise ValueError(
                f"jitter must be from 0 to less than 1, the part of a ttl that may be taken off, and is {jitter}"
            )
        self._store = store
        self._entries = store.namespace("cache")
        self._stamps = self._entries.namespace("tags")
        self._codec: Codec[T] = codec_for(codec, kind)
        self._while_revalidate = seconds(stale_while_revalidate, "stale_while_revalidate")
        self._if_error = seconds(stale_if_error, "stale_if_error")
        self._stale = max(self._while_revalidate, self._if_error)
        self._ttl = self._checked_ttl(ttl)
        self._jitter = jitter
        self._processes = processes
        self._lease = lasting(lease, "a lease")
        self._clock = clock
        self._flights = Flights()
        self._refreshers: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._store!r}>"

    # what differs between the colours

    @abstractmethod
    def _where(self) -> object:
        """Give where flights are shared: the process or the event loop."""

    @abstractmethod
    def _call(self, factory: Callable[[], Any]) -> Any:
        """Call the factory."""

    @abstractmethod
    def _fly(self, asked: Asked, found: Found, over: Flight | None) -> Any:
        """Make the value, or wait for who makes it."""

    @abstractmethod
    def _begin(self, steps: Steps[None]) -> Any:
        """Have the steps taken in the background, by what is given."""

    @abstractmethod
    def _goes_on(self, refresher: Any) -> bool:
        """Whether the steps are still being taken."""

    # arguments

    def _checked_ttl(self, ttl: TTL | Own) -> float:
        """Give seconds, or raise `InvalidTTL`."""
        if ttl is OWN:
            return self._ttl
        ms = ttl_ms(ttl)
        life = math.inf if ms is None else ms / 1000
        ttl_ms(life + self._stale)  # for so long it is stored
        return life

    def _asked(self, key: str, factory: Callable[[], Any], ttl: TTL | Own, tags: Iterable[str]) -> Asked:
        if not callable(factory):
            raise TypeError(
                f"the factory must be a function of nothing that gives the value, not {type(factory).__name__}"
            )
        return Asked(check_key(key), factory, self._checked_ttl(ttl), checked_tags(tags))

    # steps

    def _looking(self, key: str) -> Steps[Found]:
        raw: bytes | None = yield lambda: self._entries.get(key)
        entry = read(raw, key)
        if tags := entry.tags():
            entry = entry.checked((yield from self._reading(tags)))
        return Found(raw, entry, self._clock())

    def _reading(self, tags: Iterable[str]) -> Steps[Stamps]:
        found: dict[str, bytes] = yield lambda: self._stamps.get_many(tags)
        return {tag: stamp.decode("latin-1") for tag, stamp in found.items()}

    def _stamping(self, tags: frozenset[str]) -> Steps[Stamps]:
        """Give the stamps that stand for the tags, and make those that are missing."""
        if not tags:
            return {}
        stamps = yield from self._reading(tags)
        if missing := tags - stamps.keys():
            for tag in missing:
                stamp = secrets.token_hex(8).encode()
                yield partial(self._stamps.add, tag, stamp)
            stamps = yield from self._reading(tags)
        return {tag: stamps.get(tag, "") for tag in tags}  # gone again, it stands for nothing

    def _new(self, payload: bytes, ttl: float, stamps: Stamps) -> tuple[bytes, float]:
        """Give an entry as it is stored, and for how many seconds."""
        life = ttl if ttl == math.inf else max(ttl * (1 - self._jitter * random.random()), 0.001)
        return Entry(Cached(payload, self._clock() + life, stamps)).pack(), life + self._stale

    def _getting(self, key: str, default: D) -> Steps[T | D]:
        found = yield from self._looking(check_key(key))
        payload = found.payload()
        return default if payload is None else decoded(self._codec, payload, key)

    def _setting(self, key: str, value: T, ttl: TTL | Own, tags: Iterable[str]) -> Steps[None]:
        key, life = check_key(key), self._checked_ttl(ttl)
        payload = encoded(self._codec, value, key)
        stamps = yield from self._stamping(checked_tags(tags))
        new, life = self._new(payload, life, stamps)
        yield lambda: self._entries.set(key, new, ttl=life)

    def _answering(self, asked: Asked) -> Steps[T]:
        while True:
            before = self._flights.get(self._where(), asked.key)
            token = before.token if before else None
            found = yield from self._looking(asked.key)
            payload = found.payload()
            if payload is None:
                payload = found.payload(self._while_revalidate)
                if payload is not None and not self._busy(found):
                    self._refresh(asked, found)
            if payload is None:
                # A factory that began before this call, and whose lease is gone by now, may not know of what took it away.
                over = before if token not in (None, found.token) else None
                payload = yield partial(self._fly, asked, found, over)
            if payload is not None:
                return decoded(self._codec, payload, asked.key)

    def _busy(self, found: Found) -> bool:
        """Whether somebody makes the value already."""
        return found.entry.lease is not None and found.now < found.entry.lease.until

    def _flying(self, asked: Asked, flight: Flight, found: Found) -> Steps[bytes | None]:
        """Make the value and store it; None: somebody else has, look again."""
        mine = yield from self._leasing(asked, found)
        if mine is None:
            return None
        flight.token = mine.lease.token
        try:
            try:
                value = yield lambda: self._call(asked.factory)
            except Exception as e:
                stale = mine.found._replace(now=self._clock()).payload(self._if_error)
                if stale is None:
                    raise
                _failed(asked.key, e)
                yield from self._giving_back(asked.key, mine)
                return stale
            payload = encoded(self._codec, value, asked.key)
            new, life = self._new(payload, asked.ttl, mine.lease.stamps)
            with contextlib.suppress(Unchanged):
                yield lambda: self._entries.update(asked.key, filled(asked.key, mine.lease.token, new), ttl=life)
        except GeneratorExit:  # no more steps
            raise
        except BaseException:
            yield from self._giving_back(asked.key, mine)
            raise
        return payload

    def _leasing(self, asked: Asked, found: Found) -> Steps[Mine | None]:
        """Get a lease, a new one or one that is there; None: there is a fresh value by now."""
        waits = pauses(self._lease)
        while found.payload() is None:
            lease, pause = found.held(asked.tags), None
            if lease and found.now < lease.until:
                if not self._processes:
                    return Mine(found, lease, None)  # who is done first stores
                pause = next(waits, None)
            if pause is None:
                # Whoever had the lease keeps it beside us, as nothing has become old since: he may be slow, not dead.
                stamps = lease.stamps if lease else (yield from self._stamping(asked.tags))
                token = lease.token if lease else secrets.token_hex(8)
                lease = Lease(token, self._clock() + self._lease, stamps)
                mine = Mine(found, lease, Entry(found.entry.cached, lease).pack())
                if (yield from self._claiming(asked.key, mine)):
                    return mine
            else:
                yield pause
            found = yield from self._looking(asked.key)
        return None

    def _claiming(self, key: str, mine: Mine) -> Steps[bool]:
        cached = mine.found.entry.cached
        left = cached.fresh_until + self._stale - mine.found.now if cached else 0.0
        life = max(left, KEPT * self._lease)
        try:
            done: bool = yield lambda: self._entries.compare_and_set(key, mine.found.raw, mine.raw, ttl=life)
        except BaseException as e:
            # cut off, it may be stored all the same, and others would wait for nobody; a closed generator takes no more steps
            if isinstance(e, OutcomeUnknown) or not isinstance(e, Exception | GeneratorExit):
                yield from self._giving_back(key, mine)
            raise
        return done

    def _giving_back(self, key: str, mine: Mine) -> Steps[None]:
        if mine.raw is not None:
            cached = mine.found.entry.cached
            left = Entry(cached).pack() if cached else None
            with contextlib.suppress(KVError):  # the lease ends by itself
                yield lambda: self._entries.compare_and_set(key, mine.raw, left)

    def _refresh(self, asked: Asked, found: Found) -> None:
        with self._flights.lock():
            self._refreshers = {key: one for key, one in self._refreshers.items() if self._goes_on(one)}
            if len(self._refreshers) < REFRESHES and asked.key not in self._refreshers:
                self._refreshers[asked.key] = self._begin(self._refreshing(asked, found))

    def _refreshing(self, asked: Asked, found: Found) -> Steps[None]:
        work_for_none()  # the factory in which this was begun, if it was, does not wait for it
        try:
            yield lambda: self._fly(asked, found, None)
        except Exception as e:
            _failed(asked.key, e)

    def _invalidating(self, tags: tuple[str, ...]) -> Steps[None]:
        checked = checked_tags(tags)
        yield lambda: self._stamps.delete_many(checked)

    def _clearing(self, prefix: str) -> Steps[int]:
        removed: int = yield lambda: self._entries.clear(prefix)
        if not prefix:
            yield self._stamps.clear
        return removed


class Mine(NamedTuple):
    """A lease, and what there was before."""

    found: Found
    lease: Lease
    raw: bytes | None
    """The entry with the lease as it is stored; None where somebody else stored it."""


def checked_tags(tags: Iterable[str]) -> frozenset[str]:
    if isinstance(tags, str):
        raise TypeError(f"tags must be an iterable of tags, not the one str {shown(tags)}; did you mean [tag]?")
    return frozenset(check_key(tag, "a tag") for tag in tags)


def _failed(key: str, error: Exception) -> None:
    # no message and no traceback: they may show values
    _log.warning("the value for %s could not be made anew: %s", shown(key), type(error).__name__)
