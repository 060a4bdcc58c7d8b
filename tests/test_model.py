"""Every store, wrapper and namespace beside a dict with deadlines: any calls in any order give the same."""

from __future__ import annotations

import asyncio
import math
import re
import time
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from histories import SEED, SOAK
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from test_conformance import SERVERS, STORES
from test_conformance_wrappers import STACK, WRAPPERS

import kv
from kv.testing.hostile import BAD_KEYS, BAD_TTLS, COLLISIONS, KEYS, VALUES
from kv.testing.suite import lifted, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from histories import Soak

OPTIONS = settings(
    max_examples=20 if SOAK else 4,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink] if SEED else [Phase.generate],  # to make a failure small takes minutes
    suppress_health_check=[*HealthCheck],
)
SLACK = 0.05  # between this clock and the backend's
INT64 = range(-(2**63), 2**63)


class Stop(BaseException):
    """What a user's function raises."""


class Model:
    """What a store promises, for one caller: a dict of values and deadlines, which are far, in this machine's seconds."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[bytes, float]] = {}

    def _put(self, key: str, value: bytes | None, ttl: Any, ttl_if_new: Any = None) -> bytes | None:
        _, old = self.entries.get(key, (b"", math.inf))
        if key not in self.entries and ttl_if_new is not None:
            ttl = ttl_if_new
        if value is None:
            self.entries.pop(key, None)
        else:
            self.entries[key] = (value, old if ttl is kv.KEEP_TTL else deadline(ttl))
        return value

    def get(self, key: str, default: Any = None) -> Any:
        return self.entries[key][0] if key in self.entries else default

    def set(self, key: str, value: bytes, *, ttl: Any = None) -> None:
        self._put(key, value, ttl)

    def delete(self, key: str) -> bool:
        return self.entries.pop(key, None) is not None

    def update(self, key: str, fn: Any, *, ttl: Any = kv.KEEP_TTL, ttl_if_new: Any = None) -> bytes | None:
        return self._put(key, fn(self.get(key)), ttl, ttl_if_new)

    def get_many(self, keys: Iterable[str]) -> list[tuple[str, bytes]]:
        return [(key, self.entries[key][0]) for key in dict.fromkeys(keys) if key in self.entries]

    def set_many(self, items: dict[str, bytes], *, ttl: Any = None) -> None:
        for key, value in items.items():
            self._put(key, value, ttl)

    def delete_many(self, keys: Iterable[str]) -> int:
        return sum([self.delete(key) for key in keys])

    def update_many(self, keys: list[str], fn: Any, *, ttl: Any = kv.KEEP_TTL, ttl_if_new: Any = None) -> Any:
        new = fn(dict(self.get_many(keys)))
        if new.keys() - {*keys}:
            raise kv.InvalidKey
        for key in keys:
            self._put(key, new.get(key), ttl, ttl_if_new)
        return new

    def add(self, key: str, value: bytes, *, ttl: Any = None) -> bool:
        new = key not in self.entries
        if new:
            self._put(key, value, ttl)
        return new

    def compare_and_set(self, key: str, expected: bytes | None, value: bytes | None, *, ttl: Any = kv.KEEP_TTL) -> bool:
        same: bool = self.get(key) == expected
        if same:
            self._put(key, value, ttl)
        return same

    def pop(self, key: str, default: Any = None) -> Any:
        return self.entries.pop(key, (default,))[0]

    def increment(self, key: str, amount: int = 1, *, ttl: Any = kv.KEEP_TTL, ttl_if_new: Any = None) -> int:
        if amount not in INT64:
            raise kv.IntegerOverflow
        value = self.get(key, b"0")
        if not re.fullmatch(rb"0|-?[1-9][0-9]{,18}", value) or int(value) not in INT64:
            raise kv.NotAnInteger
        if int(value) + amount not in INT64:
            raise kv.IntegerOverflow
        self._put(key, b"%d" % (int(value) + amount), ttl, ttl_if_new)
        return int(value) + amount

    def exists(self, key: str) -> bool:
        return key in self.entries

    def size(self, key: str) -> int | None:
        return len(self.entries[key][0]) if key in self.entries else None

    def expire(self, key: str, ttl: Any) -> bool:
        return key in self.entries and self._put(key, self.get(key), ttl) is not None

    def persist(self, key: str) -> bool:
        had: bool = self.entries.get(key, (b"", math.inf))[1] != math.inf
        return had and self.expire(key, None)

    def keys(
        self, prefix: str = "", *, match: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[str]:
        found = sorted(key for key in self.entries if key.startswith(prefix) and (after is None or key > after))
        return [key for key in found if match is None or re.fullmatch(match, key, re.DOTALL)][:limit]

    def scan(self, *args: Any, **kwargs: Any) -> list[tuple[str, bytes]]:
        return [(key, self.entries[key][0]) for key in self.keys(*args, **kwargs)]

    def count(self, *args: Any, **kwargs: Any) -> int:
        return len(self.keys(*args, **kwargs))

    def clear(self, prefix: str = "") -> int:
        return self.delete_many(self.keys(prefix))


def deadline(ttl: Any) -> float:
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    return math.inf if seconds in (None, kv.KEEP_TTL) else time.monotonic() + seconds


GLOBS = st.lists(
    st.one_of(
        st.sampled_from([("*", ".*"), ("?", "."), ("[a-c]", "[a-c]"), ("[!a]", "[^a]")]),
        st.sampled_from("aAé😀%_:\\*?[").map(lambda char: (re.sub(r"([*?[\\])", r"\\\1", char), re.escape(char))),
    ),
    min_size=1,
    max_size=4,
).map(lambda pieces: ("".join(glob for glob, _ in pieces), "".join(pattern for _, pattern in pieces)))
TTLS = st.sampled_from([None, math.inf, 1_000, 2e6, 1e9, timedelta(hours=1)])
AGES = st.fixed_dictionaries({}, optional={"ttl": TTLS})
UPDATE_AGES = st.fixed_dictionaries({}, optional={"ttl": st.one_of(TTLS, st.just(kv.KEEP_TTL)), "ttl_if_new": TTLS})
NUMBERS = st.sampled_from([b"0", b"41", b"-7", b"042", b"9223372036854775807", b"9223372036854775808"])
BYTES = st.one_of(NUMBERS, st.sampled_from(VALUES), st.binary(max_size=20))
MAYBE = st.one_of(st.none(), BYTES)
PLACE = st.integers(0, 7)
PLACES = st.lists(PLACE, max_size=6)
_rounds = count()


class Beside(RuleBasedStateMachine):
    """Makes each call on the store and on the model.

    Attributes:
        root: the store, every method async.
        runner: runs its methods.
        soak: counts them.
        tag: in front of every key, so that a cluster keeps them together.
    """

    root: Any
    runner: asyncio.Runner
    soak: Soak
    tag: str

    @initialize(
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=6, unique=True), pair=st.sampled_from(COLLISIONS)
    )
    def plant(self, keys: list[str], pair: tuple[str, str]) -> None:
        name = f"round {next(_rounds)}"  # each in namespaces of its own, so that what fails does so again
        self.model = Model()
        self.slack = SLACK
        self.store = self.root.namespace(name + ".")
        tagged = [self.tag + key for key in (*keys, *pair)]
        self.keys = [key for key in tagged if len(key.encode()) <= 2_048]
        self.others = [
            self.root.namespace(name + ".2"),
            self.root.namespace(name + "%"),
            self.store.namespace("in it"),
        ]
        self.planted = {key: b"of another: " + key.encode() for key in self.keys}
        for other in self.others:
            self.run(other.set_many(self.planted))

    def run(self, call: Any) -> Any:
        async def outcome() -> Any:
            return await call

        self.soak.add(1)
        return self.runner.run(outcome())

    def key(self, place: int) -> str:
        return self.keys[place % len(self.keys)]

    def both(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Make a call on both, and see that they give or raise the same."""
        try:
            expected: Any = getattr(self.model, method)(*args, **kwargs)
        except (kv.KVError, Stop) as e:
            with pytest.raises(type(e)):
                self.run(getattr(self.store, method)(*args, **kwargs))
            return
        before = time.monotonic()
        given = self.run(getattr(self.store, method)(*args, **kwargs))
        self.slack = max(self.slack, SLACK + time.monotonic() - before)
        if method == "get_many":
            given = [*given.items()]
        assert (type(given), given) == (type(expected), expected), method
        if "ttl" in kwargs or method in ("update", "increment", "persist", "expire"):
            for key in [args[0]] if isinstance(args[0], str) else args[0]:
                self.lives(key)

    def lives(self, key: str) -> None:
        """See that an entry has the deadline that the model knows, from before the call that set it."""
        before = time.monotonic()
        left = self.run(self.store.ttl(key))
        if key not in self.model.entries:
            assert left is None
            return
        until = self.model.entries[key][1]
        assert left is not None
        if until == math.inf:
            assert left == math.inf
        else:
            assert until - time.monotonic() - SLACK <= left <= until - before + self.slack

    @rule(place=PLACE, default=MAYBE)
    def get(self, place: int, default: bytes | None) -> None:
        key = self.key(place)
        self.both("get", key, default)
        for other in self.others:  # what one remembers is not another's
            assert self.run(other.get(key)) == self.planted[key]
        self.both("get", key, default)

    @rule(place=PLACE, value=BYTES, ages=AGES)
    def set(self, place: int, value: bytes, ages: Any) -> None:
        self.both("set", self.key(place), value, **ages)

    @rule(place=PLACE, value=BYTES, ages=AGES)
    def add(self, place: int, value: bytes, ages: Any) -> None:
        self.both("add", self.key(place), value, **ages)

    @rule(place=PLACE, method=st.sampled_from(["delete", "exists", "size", "persist", "pop"]))
    def one(self, place: int, method: str) -> None:
        self.both(method, self.key(place))

    @rule(place=PLACE, ttl=TTLS)
    def expire(self, place: int, ttl: Any) -> None:
        self.both("expire", self.key(place), ttl)

    @rule(place=PLACE, default=BYTES)
    def pop(self, place: int, default: bytes) -> None:
        self.both("pop", self.key(place), default)

    @rule(place=PLACE, answer=st.one_of(MAYBE, st.just(Stop())), ages=UPDATE_AGES)
    def update(self, place: int, answer: Any, ages: Any) -> None:
        def fn(value: bytes | None) -> bytes | None:
            if isinstance(answer, Stop):
                raise answer
            return None if answer is None else (value or b"")[-20:] + answer

        self.both("update", self.key(place), fn, **ages)

    @rule(
        place=PLACE,
        amount=st.one_of(st.integers(-9, 9), st.sampled_from([2**63 - 1, -(2**63), 2**63])),
        ages=UPDATE_AGES,
    )
    def increment(self, place: int, amount: int, ages: Any) -> None:
        self.both("increment", self.key(place), amount, **ages)

    @rule(place=PLACE, expected=MAYBE, guess=st.booleans(), value=MAYBE, ages=AGES)
    def compare_and_set(self, place: int, expected: bytes | None, guess: bool, value: bytes | None, ages: Any) -> None:
        key = self.key(place)
        self.both("compare_and_set", key, expected if guess else self.model.get(key), value, **ages)

    @rule(places=PLACES)
    def get_many(self, places: list[int]) -> None:
        self.both("get_many", [self.key(place) for place in places])

    @rule(items=st.dictionaries(PLACE, BYTES, max_size=5), ages=AGES)
    def set_many(self, items: dict[int, bytes], ages: Any) -> None:
        self.both("set_many", {self.key(place): value for place, value in items.items()}, **ages)

    @rule(places=PLACES)
    def delete_many(self, places: list[int]) -> None:
        self.both("delete_many", [self.key(place) for place in places])

    @rule(places=PLACES, answers=st.dictionaries(PLACE, BYTES, max_size=5), whole=st.booleans(), ages=UPDATE_AGES)
    def update_many(self, places: list[int], answers: dict[int, bytes], whole: bool, ages: Any) -> None:
        named = {self.key(place) for place in places}
        answer = {self.key(place): value for place, value in answers.items()}
        if not whole:  # and else some were not asked for
            answer = {key: value for key, value in answer.items() if key in named}

        def fn(found: dict[str, bytes]) -> dict[str, bytes]:
            return {key: found.get(key, b"")[-20:] + value for key, value in answer.items()}

        self.both("update_many", [*named], fn, **ages)

    @rule(
        place=PLACE,
        cut=st.integers(0, 8),
        glob=st.one_of(st.none(), GLOBS),
        after=st.one_of(st.none(), PLACE),
        limit=st.one_of(st.none(), st.integers(0, 4)),
    )
    def lists(self, place: int, cut: int, glob: Any, after: int | None, limit: int | None) -> None:
        prefix = self.key(place)[:cut]
        match, pattern = (None, None) if glob is None else (self.tag + glob[0], re.escape(self.tag) + glob[1])
        page: dict[str, Any] = {"after": None if after is None else self.key(after), "limit": limit}
        assert self.run(self.store.keys(prefix, match=match, **page)) == self.model.keys(prefix, match=pattern, **page)
        entries = self.run(listed(self.store.scan(prefix, match=match, **page)))
        assert entries == self.model.scan(prefix, match=pattern, **page)
        assert self.run(self.store.count(prefix, match=match)) == self.model.count(prefix, match=pattern)

    @rule(place=PLACE, cut=st.integers(1, 8))
    def clear(self, place: int, cut: int) -> None:
        self.both("clear", self.key(place)[:cut])

    @rule(
        place=PLACE, value=BYTES, there=st.booleans(), then=st.sampled_from(["delete", "pop", "persist", "size", "ttl"])
    )
    def passes(self, place: int, value: bytes, there: bool, then: str) -> None:
        """An entry's deadline comes; whether it still lies there must not show."""
        key = self.key(place)
        if there and self.model.exists(key):
            self.run(self.store.expire(key, 0.001))
        else:
            self.run(self.store.set(key, value, ttl=0.001))
        self.model.delete(key)
        while self.run(self.store.exists(key)):
            pass
        if then == "ttl":
            self.lives(key)
        else:
            self.both(then, key)

    @rule()
    def cleanup(self) -> None:
        self.run(self.store.cleanup())

    @rule(bad=st.sampled_from(BAD_KEYS), ttl=st.sampled_from(BAD_TTLS), place=PLACE)
    def refuses(self, bad: Any, ttl: Any, place: int) -> None:
        for call in (self.store.set(bad, b"new"), self.store.pop(bad), self.store.increment(bad)):
            with pytest.raises(kv.InvalidKey):
                self.run(call)
        with pytest.raises(kv.InvalidTTL):
            self.run(self.store.set(self.key(place), b"new", ttl=ttl))

    @rule()
    def all_is_as_it_should_be(self) -> None:
        assert self.run(listed(self.store.scan())) == self.model.scan()
        for key in self.keys:
            self.lives(key)
        stats = self.run(self.store.stats())
        assert (stats.keys, stats.key_bytes) == (
            len(self.model.entries),
            sum(len(k.encode()) for k in self.model.entries),
        )
        for other in self.others:
            assert self.run(listed(other.scan())) == sorted(self.planted.items())
            assert dict(self.run(other.get_many(self.keys))) == self.planted
        assert "in it" in self.run(self.store.namespaces())

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.all_is_as_it_should_be()
            for store in (self.store, *self.others):
                self.run(store.clear())


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def compare(store: Any, runner: asyncio.Runner, soak: Soak, tag: str = "") -> None:
    """Let a machine make calls on the store and on a model."""
    root = lifted(store)
    machine = type("Machine", (Beside,), {"root": root, "runner": runner, "soak": soak, "tag": tag})
    try:
        for seed in soak.seeds():
            run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=OPTIONS)
    finally:
        runner.run(root.aclose())


@pytest.mark.parametrize("name", STORES)
def test_stores_here(name: str, tmp_path: Path, runner: asyncio.Runner, soak: Soak) -> None:
    compare(STORES[name](tmp_path, "normal"), runner, soak)


@pytest.mark.parametrize("name", SERVERS)
def test_stores_on_servers(name: str, request: pytest.FixtureRequest, runner: asyncio.Runner, soak: Soak) -> None:
    url, opens = SERVERS[name]
    compare(opens(request.getfixturevalue(url)), runner, soak, "{t}" if "cluster" in name else "")


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers(name: str, runner: asyncio.Runner, soak: Soak) -> None:
    compare(WRAPPERS[name](), runner, soak)


@pytest.mark.parametrize("opens", [kv.open, kv.open_async], ids=["sync", "async"])
def test_all_wrappers_at_once(shared: str, opens: Callable[..., Any], runner: asyncio.Runner, soak: Soak) -> None:
    compare(opens(shared, **STACK), runner, soak, "{t}" if "cluster" in shared else "")
