"""Functions whose values are cached, and the keys of their calls."""

from __future__ import annotations

import datetime as dt
import enum
import inspect
import itertools
import pathlib
import uuid
import zoneinfo
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, assert_type

import pytest
from adapted import now, on
from colours import both, run
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import python

import kv
from kv.adapters import AsyncCache, Cache
from kv.adapters.callkeys import written
from kv.keys import check_key

if TYPE_CHECKING:
    from collections.abc import Callable

UTC = dt.UTC


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: int
    y: Any = 0
    seen: int = field(default=0, compare=False)


@dataclass
class Place:
    x: int
    y: int = 0


PLAIN = dt.datetime(2026, 1, 1)  # noqa: DTZ001  # that is one too

DIFFERENT: list[Any] = [
    *(None, True, False, 0, 1, -1, 10**5_000, 0.0, -0.0, 1.0, float("inf"), float("nan"), "", "1", "True", "None", "'"),
    *("a', 'b", "\n", "\\n", "\ud800", "\\ud800", "\u00e9", "e\u0301", b"", b"1", (), [], {}, set(), frozenset()),
    *((1,), [1], {1}, frozenset({1}), (1, 2), (2, 1), ((1,), 2), (1, (2,)), ("1, 2",), ["a", "b"], ["a, b"]),
    *({1: 2}, {"1": 2}, {1: "2"}, {1: 2, 3: 4}, {(1, 2): [3]}, Decimal(1), Decimal("1.0"), uuid.UUID(int=1)),
    *(
        dt.date(2026, 1, 1),
        PLAIN,
        dt.datetime(2026, 1, 1, tzinfo=UTC),
        PLAIN.replace(fold=1),
    ),
    *(dt.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo(zone)) for zone in ("Europe/Berlin", "Europe/Paris")),
    *(dt.time(1), dt.time(1, tzinfo=UTC), dt.timedelta(1), UTC, dt.timezone(dt.timedelta(hours=1))),
    *(Colour.RED, Colour.BLUE, Level.LOW, Rights.READ, Rights(0), Rights.READ | Rights.WRITE),
    *(pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a"), pathlib.PurePosixPath("a\n")),
    *(Point(1), Point(2), Point(1, 1), Point(1, Point(1)), Place(1)),
]

SAME: list[tuple[Any, Any]] = [
    ({1: 2, 3: 4}, {3: 4, 1: 2}),
    ({"a", "b", "c", 1}, {1, "c", "b", "a"}),
    (Point(1, seen=1), Point(1, seen=2)),
    (Decimal("1.0"), Decimal("1.0")),
    (dt.timezone(dt.timedelta(0)), UTC),
]

NONE: list[Any] = [
    object(), lambda: 1, len, iter([]), type("Text", (str,), {})("a"), type("Number", (int,), {})(1), Point,
    dt.datetime(2026, 1, 1, tzinfo=type("Zone", (dt.tzinfo,), {"utcoffset": lambda *_: None})()), [object()], {1: object()},
    Point(1, object()), bytearray(b"a"),
]  # fmt: skip


def test_different_values_are_written_differently() -> None:
    assert len({*map(written, DIFFERENT)}) == len(DIFFERENT)
    for value in DIFFERENT:
        check_key(f"k{written(value)[:500]}")


@pytest.mark.parametrize(("one", "other"), SAME)
def test_equal_values_are_written_alike(one: Any, other: Any) -> None:
    assert written(one) == written(other)


@pytest.mark.parametrize("value", NONE, ids=lambda value: type(value).__name__)
def test_what_has_no_stable_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="has no form that is the same in every process"):
        written(value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def exactly(value: Any) -> Any:
    """Give what is equal where a value is the same, types and all."""
    if isinstance(value, dict):
        return dict, frozenset((key, exactly(one)) for key, one in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(map(exactly, value))
    return type(value), str(value) if isinstance(value, float) else value


@settings(deadline=None)
@given(plain, plain)
def test_values_are_written_alike_where_they_are_the_same(one: Any, other: Any) -> None:
    assert (written(one) == written(other)) == (exactly(one) == exactly(other))
    check_key(f"k{written(one)[:500]}")


def test_keys_are_readable_or_short_and_the_same_in_every_process() -> None:
    with kv.open("memory://") as store:

        @Cache(store).cached()
        def user(number: int, /, *names: str, verbose: bool = False, **others: object) -> None: ...

        name = f"{__name__}.test_keys_are_readable_or_short_and_the_same_in_every_process.<locals>.user"
        assert user.key(1) == f"{name}(number=1, names=(,), verbose=False, others={{}})"
        long = user.key(1, "x" * 10_000)
        assert long.startswith(f"{name[:60]}#")
        assert len(long) == 60 + 1 + 64
        assert long != user.key(1, "x" * 10_001)
    code = """
    import uuid
    from kv.adapters.callkeys import written
    print(written([{"a", "b", "c", "d", 1, None}, uuid.UUID(int=1)]), end="")
    """
    assert len({python(code) for _ in range(3)}) == 1  # each with a hash seed of its own


@both
def test_a_call_is_known_by_its_arguments_however_they_are_given(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        calls = itertools.count(1)

        @on(store, Cache, AsyncCache).cached()  # type: ignore[untyped-decorator]
        def f(a: object, b: object = 2, *more: object, **named: object) -> int:
            """Count."""
            return next(calls)

        first = await now(f(1))
        for args, kwargs in [((1, 2), {}), ((), {"a": 1}), ((), {"b": 2, "a": 1}), ((1,), {"b": 2})]:
            assert await now(f(*args, **kwargs)) == first
        others = [await now(f(a)) for a in (True, "1", 1.0, None, (1,))]
        others += [await now(f(1, 3)), await now(f(1, 2, 3)), await now(f(1, c=3)), await now(f(1, d=3, c=2))]
        assert len({first, *others}) == 10
        assert await now(f(1, c=2, d=3)) == others[-1]
        assert await now(f.invalidate(a=1))
        assert not await now(f.invalidate(1))
        assert await now(f(1)) == 11
        assert (f.__name__, f.__doc__, f.__wrapped__(0)) == ("f", "Count.", 12)
        with pytest.raises(TypeError, match="missing a required argument: 'a'"):
            await now(f())
        with pytest.raises(
            TypeError, match=r"the argument 'a' of .*\.f makes no key: builtins.object has no form .*; pass key="
        ):
            await now(f(object()))
        loop: list[object] = []
        loop.append(loop)
        with pytest.raises(TypeError, match="holds itself"):
            await now(f(loop))

    run(opens("memory://"), body)


@both
def test_a_method_needs_a_key_of_its_own(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache = on(store, Cache, AsyncCache)

        class Users:
            def __init__(self, name: str) -> None:
                self.name = name

            @cache.cached()  # type: ignore[untyped-decorator]
            def without(self) -> str:
                return self.name

            @cache.cached(  # type: ignore[untyped-decorator]
                key=lambda self, n: f"user:{self.name}:{n}", tags=lambda self, n: [f"users of {self.name}"]
            )
            def load(self, n: int) -> str:
                return f"{self.name}{n}"

        a, b = Users("a"), Users("b")
        with pytest.raises(TypeError, match=r"the argument 'self' .*; pass key="):
            await now(a.without())
        for _ in range(2):
            assert [await now(a.load(1)), await now(b.load(1)), await now(b.load(2))] == ["a1", "b1", "b2"]
        assert Users.load.key(a, 1) == "user:a:1"
        await now(cache.invalidate("users of b"))
        assert [await now(cache.get(key, "")) for key in ("user:a:1", "user:b:1", "user:b:2")] == ["a1", "", ""]

    run(opens("memory://"), body)


def test_what_becomes_of_a_function_has_its_types() -> None:
    with kv.open("memory://") as store:
        cache = Cache(store, int)
        assert_type(cache, Cache[int])
        assert_type(cache.get_or_set("k", lambda: 1), int)

        @cache.cached(ttl=1)
        def double(n: int) -> int:
            return 2 * n

        def typed(n: int) -> int:
            return n

        assert_type(cache.cached()(typed)(1), int)
        assert_type(double(1), int)
        assert double.__wrapped__(2) == 4


def test_what_becomes_of_a_coroutine_function_is_one() -> None:
    async def body(store: kv.AsyncStore) -> None:
        cache = AsyncCache(store, int)
        assert_type(cache, AsyncCache[int])
        assert_type(await cache.get_or_set("k", lambda: 1), int)

        @cache.cached()
        async def double(n: int) -> int:
            return 2 * n

        @cache.cached()
        def triple(n: int) -> int:
            return 3 * n

        assert inspect.iscoroutinefunction(double)
        assert inspect.signature(double).parameters.keys() == {"n"}
        assert_type(await double(2), int)
        assert_type(await triple(2), int)
        assert [await double(2), await triple(2)] == [4, 6]
        assert await triple.invalidate(2)

    run(kv.open_async("memory://"), body)
