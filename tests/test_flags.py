"""Feature flags: who sees what, always the same, and whom a change concerns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from adapted import AsyncCutOff, CutOff, now, on
from colours import both, run
from programs import pythons

import kv
from kv.adapters import AsyncFlags, Flag, Flags

if TYPE_CHECKING:
    from collections.abc import Callable

USERS = [f"user:{n}" for n in range(2_000)]


def flags_on(store: Any, **options: Any) -> Any:
    return on(store, Flags, AsyncFlags, **{"ttl": 0, **options})


def shares(flag: Flag, name: str = "f") -> dict[str | None, int]:
    """Count the users who see each variant."""
    seen = [flag.variant_for(name, user) for user in USERS]
    return {variant: seen.count(variant) for variant in {*seen}}


@both
def test_flags_are_set_asked_for_and_removed(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        flags, other = flags_on(store), flags_on(store)
        await store.set("new search", b"mine")
        assert await now(flags.all()) == {}
        assert [await now(flags.is_on("new search")), await now(flags.is_on("new search", "u", True))] == [False, True]
        await now(flags.set("new search"))
        await now(flags.set("é", False))
        await now(flags.set("a", percent=12.5, variants={"blue": 1, "green": 2.5}))
        assert await now(other.is_on("new search")) is True
        assert await now(other.is_on("new search", "anyone")) is True
        assert [await now(other.is_on("é")), await now(other.is_on("é", "u", default=True))] == [False, False]
        assert await now(other.get("a")) == Flag(True, 12.5, {"blue": 1, "green": 2.5})
        assert await now(other.all()) == {
            "a": Flag(percent=12.5, variants={"blue": 1, "green": 2.5}),
            "new search": Flag(),
            "é": Flag(on=False),
        }
        assert [*(await now(other.all()))] == ["a", "new search", "é"]
        assert await now(other.delete("é"))
        assert not await now(other.delete("é"))
        with pytest.raises(kv.KeyNotFound, match="there is no flag 'é'"):
            await now(flags.get("é"))
        assert await store.get("new search") == b"mine"

    run(opens(anywhere), body)


@both
def test_toggle_changes_nothing_else(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        flags = flags_on(store)
        await now(flags.set("f", percent=30, variants={"a": 1}))
        assert await now(flags.toggle("f")) is False
        assert await now(flags.get("f")) == Flag(False, 30, {"a": 1})
        assert await now(flags.toggle("f")) is True
        assert await now(flags.get("f")) == Flag(True, 30, {"a": 1})
        with pytest.raises(kv.KeyNotFound, match="there is no flag 'g'"):
            await now(flags.toggle("g"))
        assert [*(await now(flags.all()))] == ["f"]

    run(opens(anywhere), body)


def test_of_what_many_processes_toggle_each_one_counts(shared: str) -> None:
    with kv.open(shared) as store:
        Flags(store).set("f", percent=30)
    pythons(
        """
        import asyncio, kv
        from kv.adapters import AsyncFlags, Flags
        async def main():
            async with kv.open_async(sys.argv[1]) as store:
                for _ in range(25):
                    await AsyncFlags(store).toggle("f")
        if me % 2:
            asyncio.run(main())
        else:
            with kv.open(sys.argv[1]) as store:
                for _ in range(25 + (me == 0)):
                    Flags(store).toggle("f")
        """,
        shared,
    )
    with kv.open(shared) as store:
        assert Flags(store).get("f") == Flag(False, 30)  # 101 times


# who sees what


def test_a_rollout_is_of_about_so_many_users_and_only_grows() -> None:
    before: set[str] = set()
    for percent in (0, 0.5, 1, 10, 33.3, 50, 90, 99.9, 100):
        flag = Flag(percent=percent)
        users = {user for user in USERS if flag.is_on_for("f", user)}
        assert before <= users
        assert abs(len(users) / len(USERS) * 100 - percent) < 4
        before = users
    assert before == {*USERS}
    assert not any(Flag(percent=0).is_on_for("f", user) for user in USERS)


def test_without_a_user_a_flag_is_on_where_it_is_for_all() -> None:
    assert Flag().is_on_for("f", None)
    assert not Flag(percent=99.9).is_on_for("f", None)
    assert not Flag(on=False).is_on_for("f", None)


def test_rollouts_and_variants_are_independent_of_each_other() -> None:
    half = Flag(percent=50, variants={"a": 1, "b": 1})
    one, other = ({user for user in USERS if half.is_on_for(name, user)} for name in ("f", "g"))
    assert abs(len(one & other) - 500) < 100
    seen = [half.variant_for("f", user) for user in one]
    assert abs(seen.count("a") - seen.count("b")) < 150
    # lengths stand before what is hashed, so that these are two pairs
    assert {half.is_on_for("fu", f"ser:{n}") == half.is_on_for("f", f"user:{n}") for n in range(50)} == {True, False}


def test_users_see_variants_by_their_weights() -> None:
    for weights in (
        {"a": 1, "b": 1},
        {"a": 1, "b": 3, "none": 0},
        {"a": 0.1, "b": 0.2, "c": 0.7},
        {"a": 10**300, "b": 10**300},
    ):
        total, counts = sum(weights.values()), shares(Flag(variants=weights))
        for name, weight in weights.items():
            assert abs(counts.get(name, 0) / len(USERS) - weight / total) < 0.04
        assert counts.get("none", 0) == 0
        assert counts.keys() <= weights.keys()
    assert shares(Flag(percent=50, variants={"a": 1}))[None] == pytest.approx(1_000, abs=80)
    assert shares(Flag(False, variants={"a": 1})) == shares(Flag()) == {None: 2_000}
    few, many = (
        {user for user in USERS if Flag(variants={"a": w, "b": 1}).variant_for("f", user) == "a"} for w in (1, 2)
    )
    assert few < many


def test_who_sees_what_is_the_same_for_ever() -> None:
    flag = Flag(percent=50, variants={"a": 1, "b": 1})
    assert [flag.variant_for("f", user) for user in USERS[:8]] == [None, None, "a", None, None, None, None, None]
    assert flag.is_on_for("é", "\ud800\n") in (True, False)  # any str is a user


@both
def test_a_user_sees_one_variant(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        flags = flags_on(store)
        await now(flags.set("f", variants={"a": 1, "b": 1}))
        seen = [await now(flags.variant("f", user)) for user in USERS[:50]]
        assert {*seen} == {"a", "b"}
        assert seen == [await now(flags_on(store).variant("f", user, "c")) for user in USERS[:50]]
        assert [await now(flags.variant("g", "u")), await now(flags.variant("g", "u", "c"))] == [None, "c"]

    run(opens("memory://"), body)


# near, wrong, foreign


@both
def test_what_was_read_is_used_again_until_it_is_changed_here(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        inner = on(store, CutOff, AsyncCutOff)
        flags: Any = AsyncFlags(inner, ttl=1_000) if isinstance(inner, AsyncCutOff) else Flags(inner, ttl=1_000)
        other = flags_on(store)
        await now(flags.set("f"))
        assert [await now(flags.is_on("f")) for _ in range(3)] == [True] * 3
        calls = len(inner.calls)
        assert [await now(flags.is_on("f", user)) for user in USERS[:20]] == [True] * 20
        assert len(inner.calls) == calls
        await now(other.set("f", False))
        assert await now(flags.is_on("f"))  # another process's change is seen later
        assert await now(flags.toggle("f")) is True  # what writes sees what is stored
        await now(flags.set("f", False))
        assert not await now(flags.is_on("f"))  # one's own at once
        await now(flags.delete("f"))
        assert await now(flags.is_on("f", default=True))

    run(opens("memory://"), body)


@both
def test_wrong_flags_are_refused_before_anything_is_done(opens: Callable[..., Any]) -> None:
    async def body(store: kv.AsyncStore) -> None:
        inner = on(store, CutOff, AsyncCutOff)
        make: Any = AsyncFlags if isinstance(inner, AsyncCutOff) else Flags
        flags = make(inner)
        wrong: list[tuple[type[Exception], Callable[[], Any]]] = [
            *((ValueError, lambda p=p: flags.set("f", percent=p)) for p in (-1, 100.1, math.nan, math.inf)),
            *((TypeError, lambda p=p: flags.set("f", percent=p)) for p in ("50", True, None)),
            (TypeError, lambda: flags.set("f", 1)),
            (TypeError, lambda: flags.set("f", variants=["a", "b"])),
            (TypeError, lambda: flags.set("f", variants={1: 1})),
            *((ValueError, lambda w=w: flags.set("f", variants={"a": w})) for w in (0, -1, math.nan, math.inf)),
            (ValueError, lambda: flags.set("f", variants={"a": 1e308, "b": 1e308})),
            (TypeError, lambda: flags.set("f", variants={"a": "1"})),
            (kv.InvalidKey, lambda: flags.set("")),
            (kv.InvalidKey, lambda: flags.is_on("\n")),
            (kv.InvalidKey, lambda: flags.toggle(1)),
            (TypeError, lambda: flags.is_on("f", 17)),
            (TypeError, lambda: flags.variant("f", None)),
            (ValueError, lambda: make(inner, ttl=-1)),
            (TypeError, lambda: (Flags if make is AsyncFlags else AsyncFlags)(inner)),
        ]
        for error, call in wrong:
            with pytest.raises(error):
                await now(call())
        assert inner.calls == []

    run(opens("memory://"), body)


@both
def test_what_is_no_flag_is_left_as_it_is(opens: Callable[..., Any], anywhere: str) -> None:
    foreign = [
        b"",
        b"1",
        b"\x02{}\n",
        b'\x02{"on":1,"percent":1,"variants":[]}\n',
        b'\x02{"on":true,"percent":101,"variants":[]}\n',
    ]
    foreign += [b'\x02{"on":true,"percent":1,"variants":[1]}\n', b'\x02{"on":true,"percent":1,"variants":[]}\nmore']

    async def body(store: kv.AsyncStore) -> None:
        flags = flags_on(store)
        for value in foreign:
            await store.namespace("flags").set("f", value)
            for call in (flags.is_on, flags.get, flags.toggle):
                with pytest.raises(kv.CorruptData, match="for 'f' is not a flag"):
                    await now(call("f"))
            with pytest.raises(kv.CorruptData, match="for 'f' is not a flag"):
                await now(flags.all())
            assert await store.namespace("flags").get("f") == value
        await now(flags.set("f"))
        assert await now(flags.is_on("f"))

    run(opens(anywhere), body)


def test_a_flag_is_a_value_of_its_own() -> None:
    weights = {"a": 1.0}
    flag = Flag(variants=weights)
    weights["b"] = 1
    assert flag == Flag(variants={"a": 1.0})
    assert repr(flag) == "Flag(on=True, percent=100, variants={'a': 1.0})"
    with kv.open("memory://") as store:
        flags = Flags(store)
        flags.set("f", variants={"a": 1})
        flags.get("f").variants["b"] = 1  # type: ignore[index]
        assert {flags.variant("f", user) for user in USERS[:50]} == {"a"}
