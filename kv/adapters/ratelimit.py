"""Rate limits that many processes share, exact, one atomic call a check: fixed window, sliding window, token bucket."""

from __future__ import annotations

import re
import struct
import time
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from kv.errors import InvalidKey
from kv.keys import check_key, shown
from kv.store import AsyncStore, Store
from kv.values import Unchanged, to_int

from .records import foreign
from .steps import check_store, run, run_async, seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from .steps import Steps

__all__ = ["AsyncRateLimiter", "Decision", "RateLimiter"]

S = TypeVar("S", bound=Store | AsyncStore)

Algorithm: TypeAlias = Literal["fixed", "sliding", "bucket"]

MAX_KEY: Final = 2_000
"""The longest key, in bytes of UTF-8: a window's number goes before it."""


class Decision(NamedTuple):
    """What a limiter says of a call. True where it is allowed."""

    allowed: bool
    remaining: int
    """How much more is allowed at this instant."""
    retry_after: float
    """Seconds until the same call would be allowed if nobody else came; 0.0 where it is."""

    def __bool__(self) -> bool:
        return self.allowed


class _Rule(Protocol):
    """What a limiter does. Times are whole microseconds. Pure."""

    most: int
    """What is allowed at once at most."""

    def name(self, key: str, now: int) -> str:
        """Give under which name a key's calls of now are counted."""
        ...

    def decide(self, value: bytes | None, name: str, now: int, cost: int) -> tuple[Decision, bytes]:
        """Give what is decided, and what is stored where it is allowed, or raise where something else is stored."""
        ...


class _Fixed:
    """A counter for each window, the windows beginning at multiples of their length since 1970."""

    def __init__(self, limit: int, per: int) -> None:
        self.most = limit
        self._per = per

    def name(self, key: str, now: int) -> str:
        return f"{now // self._per}:{key}"

    def decide(self, value: bytes | None, name: str, now: int, cost: int) -> tuple[Decision, bytes]:
        total = (0 if value is None else to_int(value, name)) + cost
        return self.counted(total, now, cost), b"%d" % total

    def counted(self, total: int, now: int, cost: int) -> Decision:
        """Decide by the total with this call."""
        if total <= self.most:
            return Decision(True, self.most - total, 0.0)
        return Decision(False, max(0, self.most - total + cost), (self._per - now % self._per) / 1e6)


class _Sliding:
    """A log of the allowed calls of the last window: a time and what was allowed at it, 16 bytes, oldest first."""

    _HEAD = b"\x03"
    _one = struct.Struct(">qq")

    def __init__(self, limit: int, per: int) -> None:
        self.most = limit
        self._per = per

    def name(self, key: str, now: int) -> str:  # noqa: ARG002
        return key

    def decide(self, value: bytes | None, name: str, now: int, cost: int) -> tuple[Decision, bytes]:
        # what is further ahead than the window comes of a clock that was wrong: it would lock out for as long as that
        log = [(at, n) for at, n in self._read(value, name) if at <= now + self._per]
        latest = max(now, log[-1][0]) if log else now
        log = [(at, n) for at, n in log if at > latest - self._per]
        over = sum(n for _, n in log) + cost - self.most
        if over > 0:
            return Decision(False, cost - over, (self._freed(log, over) + self._per - now) / 1e6), b""
        if log and log[-1][0] == latest:
            log[-1] = (latest, log[-1][1] + cost)
        else:
            log.append((latest, cost))
        return Decision(True, -over, 0.0), self._HEAD + b"".join(self._one.pack(*one) for one in log)

    def _read(self, value: bytes | None, name: str) -> list[tuple[int, int]]:
        if value is None:
            return []
        if value.startswith(self._HEAD) and len(value) % self._one.size == 1:
            log: list[tuple[int, int]] = [*self._one.iter_unpack(value[1:])]
            if log == sorted(log) and all(n > 0 for _, n in log):
                return log
        raise foreign(name, "the log of a rate limit")

    @staticmethod
    def _freed(log: list[tuple[int, int]], over: int) -> int:
        """Give the time of the call whose end leaves room for so much."""
        sums = accumulate(n for _, n in log)
        return next(at for (at, _), total in zip(log, sums, strict=True) if total >= over)


class _TokenBucket:
    """A bucket that tokens flow into at an even rate, up to `burst`, as GCRA: all that is stored is when it will be full.

    That is an integer in microseconds divided by the limit: so the time that one token takes, `per / limit`, is whole.
    """

    _full = re.compile(rb"0|[1-9][0-9]{0,39}").fullmatch

    def __init__(self, limit: int, per: int, burst: int) -> None:
        self.most = burst
        self._limit = limit
        self._token = per  # in units

    def name(self, key: str, now: int) -> str:  # noqa: ARG002
        return key

    def decide(self, value: bytes | None, name: str, now: int, cost: int) -> tuple[Decision, bytes]:
        instant, room = now * self._limit, self.most * self._token
        full = instant
        if value is not None:
            if not self._full(value):
                raise foreign(name, "the bucket of a rate limit")
            full = max(full, int(value))
        if full > instant + room + self._token * self._limit:
            full = instant  # by more than a window: of a clock that was wrong, see `_Sliding`
        left = room - (full - instant)
        missing = cost * self._token - left
        if missing > 0:
            return Decision(False, max(0, left // self._token), -(-missing // self._limit) / 1e6), b""
        return Decision(True, -missing // self._token, 0.0), b"%d" % (full + cost * self._token)


def _count(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{what} must be 1 or more, and is {value}")
    return int(value)


class _RateLimiter(Generic[S]):
    """What both colours share: what is stored, and every step."""

    _end: ClassVar[str]

    def __init__(
        self,
        store: S,
        limit: int,
        per: float | timedelta,
        *,
        algorithm: Algorithm = "fixed",
        burst: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_store(store, self, self._end)
        limit = _count(limit, "limit")
        micros = round(seconds(per, "per") * 1e6)
        if micros < 1_000:
            raise ValueError(f"per must be 0.001 seconds or more, and is {per}")
        if burst is not None and algorithm != "bucket":
            raise ValueError('burst goes with algorithm="bucket" alone')
        self._rule: _Rule
        shape = f"{algorithm} {limit}/{micros / 1e6:.6f}".rstrip("0").rstrip(".")
        if algorithm == "fixed":
            self._rule = _Fixed(limit, micros)
        elif algorithm == "sliding":
            self._rule = _Sliding(limit, micros)
        elif algorithm == "bucket":
            self._rule = _TokenBucket(limit, micros, limit if burst is None else _count(burst, "burst"))
            shape += f" {self._rule.most}"
        else:
            raise ValueError(f'algorithm must be "fixed", "sliding" or "bucket", not {algorithm!r}')
        self._store = store
        self._shape = shape
        self._entries: Any = store.namespace("ratelimit").namespace(shape)  # limits that differ share nothing
        # An entry outlives what it says by a window, for clocks that differ by less.
        self._ttl = micros / 1e6 * (1 + max(1, self._rule.most / limit))
        self._clock = clock

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._shape} on {self._store!r}>"

    def _now(self) -> int:
        return round(self._clock() * 1e6)

    def _checking(self, key: str, cost: int) -> Steps[Decision]:
        key = _checked(key)
        cost = _count(cost, "cost")
        if cost > self._rule.most:
            raise ValueError(f"a cost of {cost} would never be allowed: {self._rule.most} is the most at once")
        now = self._now()
        name = self._rule.name(key, now)
        if cost == 1 and isinstance(rule := self._rule, _Fixed):
            # past the limit it counts on, which changes no answer: the window is used up
            total: int = yield lambda: self._entries.increment(name, ttl_if_new=self._ttl)
            return rule.counted(total, now, cost)
        decisions: list[Decision] = []

        def fn(value: bytes | None) -> bytes:
            decision, new = self._rule.decide(value, name, now, cost)
            decisions.append(decision)
            if not decision.allowed:
                raise Unchanged
            return new

        with suppress(Unchanged):
            yield lambda: self._entries.update(name, fn, ttl=self._ttl)
        return decisions[-1]

    def _peeking(self, key: str) -> Steps[Decision]:
        now = self._now()
        name = self._rule.name(_checked(key), now)
        value: bytes | None = yield lambda: self._entries.get(name)
        decision, _ = self._rule.decide(value, name, now, 1)
        return decision._replace(remaining=decision.remaining + decision.allowed)

    def _resetting(self, key: str) -> Steps[None]:
        name = self._rule.name(_checked(key), self._now())
        yield lambda: self._entries.delete(name)


def _checked(key: str) -> str:
    key = check_key(key)
    if len(key.encode()) > MAX_KEY:
        raise InvalidKey(
            f"key {shown(key)} is too long for a rate limit; at most {MAX_KEY:,} bytes of UTF-8 are allowed"
        )
    return key


class RateLimiter(_RateLimiter[Store]):
    """At most `limit` calls in `per` seconds for each key, however many processes ask: 100 allowed means 100.

        decision = RateLimiter(store, 100, per=60).check(client)
        if not decision.allowed:
            ...                       # 429, Retry-After: decision.retry_after

    Algorithms, each exact, one atomic call a check:

    * `"fixed"`: windows side by side, a counter each, the fastest. About the end of one, twice the limit may pass.
    * `"sliding"`: never more than the limit in any `per` seconds. Stores 16 bytes for each allowed call of the last window.
    * `"bucket"`: at an even rate of `limit` in `per` seconds, `burst` at once after a pause (GCRA). Stores one integer.

    The clock is that of whoever asks. It may go back by up to `per`: nothing is allowed twice by that. So clocks of several
    machines should differ by much less: in "sliding" and "bucket" one that is ahead counts for all, and what is ahead by more
    than `per` is ignored, so that a wrong clock locks nobody out for long; in "fixed" each counts in the window it sees.

    Limiters alike in limit, per, algorithm and burst share their counts; others share nothing. For two purposes take keys or
    namespaces of their own. All is stored in `ratelimit` and a namespace below it, and expires.

    Args:
        store: an open store. It is not closed here.
        limit: 1 or more.
        per: seconds or a `timedelta`, 1 ms or more.
        algorithm: as above.
        burst: for "bucket": how much is allowed at once; None: the limit.
        clock: seconds since 1970.

    Raises:
        ValueError: a number is out of its range, or the algorithm unknown.
        TypeError: a number is none.
    """

    _end = "close"

    def check(self, key: str, cost: int = 1) -> Decision:
        """Count a call, if it is allowed. One atomic call.

        Args:
            key: whom it is counted for: any key of up to 2,000 bytes.
            cost: how much it counts: 1 up to the limit, or the burst.

        Raises:
            ValueError: the cost is out of its range.
            CorruptData, NotAnInteger: what is stored is not a limiter's; it was left as it is.
        """
        return run(self._checking(key, cost))

    def peek(self, key: str) -> Decision:
        """Give what `check` would, and how much remains, and count nothing. One read."""
        return run(self._peeking(key))

    def reset(self, key: str) -> None:
        """Forget what was counted, as after a login that succeeded. One call."""
        run(self._resetting(key))


class AsyncRateLimiter(_RateLimiter[AsyncStore]):
    """See `RateLimiter`."""

    _end = "aclose"

    async def check(self, key: str, cost: int = 1) -> Decision:
        """See `RateLimiter.check`."""
        return await run_async(self._checking(key, cost))

    async def peek(self, key: str) -> Decision:
        """See `RateLimiter.peek`."""
        return await run_async(self._peeking(key))

    async def reset(self, key: str) -> None:
        """See `RateLimiter.reset`."""
        await run_async(self._resetting(key))
