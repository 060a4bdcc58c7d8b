"""Sessions: ids, deadlines, rotation at login, and the end of one or of all of a user."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, assert_type

import pytest
from adapted import AsyncCutOff, CutOff
from colours import around, both, run
from programs import pythons

import kv
from kv.adapters import AsyncSessions, Session, Sessions
from kv.testing.suite import LONG, gone, together
from kv.wrappers.base import Wrapper

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


def on(store: Any, *args: Any, **options: Any) -> Any:
    return around(store, Sessions, AsyncSessions, *args, **options)


def key(id: str) -> str:  # noqa: A002
    return hashlib.sha256(id.encode()).hexdigest()


async def left(store: kv.AsyncStore, id: str) -> float | None:  # noqa: A002
    """The seconds that a session has by the store's clock."""
    return await store.namespace("session").ttl(key(id))


def near(seconds: float) -> Any:
    return pytest.approx(seconds, abs=60)


GARBAGE = ["", "x", "é" * 50, "\x00", "\udc80", "../../etc/passwd", "A" * 43, "a" * 100_000]


@both
def test_a_session_lives_until_it_is_ended(opens: Callable[..., Any], anywhere: str) -> None:
    clock = Clock()

    async def body(store: kv.AsyncStore) -> None:
        sessions = on(store, clock=clock)
        id = await sessions.create({"cart": [1]})
        other = await sessions.create({})
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", id)
        assert await sessions.get(id) == Session(id, {"cart": [1]}, None, clock.now)
        assert await sessions.update(id, lambda data: {"cart": data["cart"] + [2]}) == {"cart": [1, 2]}
        assert (await sessions.get(id)).data == {"cart": [1, 2]}
        await sessions.set(id, {"new": True})
        assert (await sessions.get(id)).data == {"new": True}
        assert await sessions.end(id)
        assert not await sessions.end(id)
        assert (await sessions.get(other)).data == {}
        for lost in (id, *GARBAGE):
            assert await sessions.get(lost) is None
            assert not await sessions.end(lost)
            for call in (sessions.set(lost, {}), sessions.update(lost, dict), sessions.rotate(lost)):
                with pytest.raises(kv.KeyNotFound, match="there is no session of this id"):
                    await call
        assert await store.namespace("session").count() == 1

    run(opens(anywhere), body)


@both
def test_a_login_gives_a_new_id_and_the_old_one_ends(opens: Callable[..., Any], anywhere: str) -> None:
    clock = Clock()

    async def body(store: kv.AsyncStore) -> None:
        sessions = on(store, clock=clock)
        before, began = await sessions.create({"cart": [1]}), clock.now
        clock.now += 60
        id = await sessions.rotate(before, user="ada")
        assert await sessions.get(before) is None
        assert await sessions.get(id) == Session(id, {"cart": [1]}, "ada", began)
        again = await sessions.rotate(id)
        assert await sessions.get(id) is None
        assert await sessions.get(again) == Session(again, {"cart": [1]}, "ada", began)
        logged_out = await sessions.rotate(again, user=None)
        await sessions.end_user("ada")
        assert await sessions.get(logged_out) == Session(logged_out, {"cart": [1]}, None, began)

    run(opens(anywhere), body)


@both
def test_all_sessions_of_a_user_end_at_once_and_no_others(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        sessions = on(store)
        for n in (1, 2):  # without a stamp, and with one
            mine = [await sessions.create(n, user="ada") for _ in range(3)]
            mine.append(await sessions.rotate(await sessions.create(n), user="ada"))
            mine.append(await sessions.rotate(mine.pop(0)))
            others = [await sessions.create(n, user="bob"), await sessions.create(n)]
            assert all([await sessions.get(id) for id in mine + others])
            await sessions.end_user("ada")
            for id in mine:
                assert await sessions.get(id) is None
                with pytest.raises(kv.KeyNotFound):
                    await sessions.update(id, lambda n: n + 1)
                with pytest.raises(kv.KeyNotFound):
                    await sessions.rotate(id)
                assert not await sessions.end(id)
            assert all([await sessions.get(id) for id in others])

    run(opens(anywhere), body)


@both
def test_each_get_lets_it_live_on_up_to_its_lifetime(opens: Callable[..., Any], anywhere: str) -> None:
    clock = Clock()

    async def body(store: kv.AsyncStore) -> None:
        sessions = on(store, idle=timedelta(seconds=LONG), lifetime=3 * LONG, clock=clock)
        id = await sessions.create("x")
        assert await left(store, id) == near(LONG)
        assert await store.namespace("session").expire(key(id), LONG / 2)
        await sessions.update(id, str.upper)
        assert await left(store, id) == near(LONG / 2)  # a write alone is no visit
        assert (await sessions.get(id)).data == "X"
        assert await left(store, id) == near(LONG)
        clock.now += 2.5 * LONG
        assert await sessions.get(id)
        assert await left(store, id) == near(LONG / 2)
        id = await sessions.rotate(id, user="ada")
        assert await left(store, id) == near(LONG / 2)
        clock.now += LONG / 2
        assert await sessions.get(id) is None  # though the store has it
        assert await left(store, id) is not None
        for call in (sessions.update(id, str), sessions.set(id, ""), sessions.rotate(id)):
            with pytest.raises(kv.KeyNotFound):
                await call
        assert not await sessions.end(id)

    run(opens(anywhere), body)


@both
def test_an_idle_session_ends(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        sessions = on(store, idle=0.02)
        id = await sessions.create("x")
        await gone(store.namespace("session"), key(id))
        assert await sessions.get(id) is None

    run(opens(anywhere), body)


# races


@both
def test_side_by_side_no_update_is_lost_and_one_rotation_wins(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        sessions = on(store)
        id = await sessions.create(0)
        await together(store, *(sessions.update(id, lambda n: n + 1) for _ in range(30)))
        ids = await together(store, *(won(sessions.rotate(id)) for _ in range(10)))
        (new,) = filter(None, ids)
        assert (await sessions.get(new)).data == 30
        assert await store.namespace("session").count() == 1

    run(opens(anywhere), body)


async def won(rotation: Any) -> str | None:
    try:
        return str(await rotation)
    except kv.KeyNotFound:
        return None


def test_among_processes_no_update_is_lost_and_one_rotation_wins(shared: str) -> None:
    with kv.open(shared) as store:
        sessions = Sessions(store, int)
        counted, *rotated = [sessions.create(0) for _ in range(11)]
        said = pythons(
            """
            import asyncio, sys, kv
            from kv.adapters import AsyncSessions, Sessions
            url, counted, *rotated = sys.argv[1:]
            def sync():
                with kv.open(url) as store:
                    sessions = Sessions(store, int)
                    for id in rotated:
                        sessions.update(counted, lambda n: n + 1)
                        try:
                            print(sessions.rotate(id, user="ada"))
                        except kv.KeyNotFound:
                            pass
            async def main():
                async with kv.open_async(url) as store:
                    sessions = AsyncSessions(store, int)
                    for id in rotated:
                        await sessions.update(counted, lambda n: n + 1)
                        try:
                            print(await sessions.rotate(id, user="ada"))
                        except kv.KeyNotFound:
                            pass
            asyncio.run(main()) if me % 2 else sync()
            """,
            shared,
            counted,
            *rotated,
        )
        session = sessions.get(counted)
        assert session
        assert session.data == 4 * 10
        won = [id for out in said for id in out.split()]
        assert len(won) == 10
        assert all(map(sessions.get, won))
        assert store.namespace("session").count() == 11


def test_no_session_of_before_outlives_the_end_of_a_user_in_any_process(shared: str) -> None:
    """Nor does what it has become by rotations, which go on all the time, and of which some are under way at that instant."""
    with kv.open(shared) as store:
        sessions = Sessions(store, int)
        said = pythons(
            """
            import sys, kv
            from kv.adapters import Sessions
            with kv.open(sys.argv[1]) as store:
                sessions = Sessions(store, int)
                def number(key):
                    return int(store.get(key, b"0"))
                if me == 0:
                    for _ in range(40):
                        n = store.increment("begun")
                        sessions.end_user("ada")
                        store.set("done", b"%d" % n)
                else:
                    chain = None
                    while number("done") < 40:
                        if chain is None:
                            chain = sessions.create(0, user="ada")
                            born = number("begun")       # those that begin from now on must end it
                        try:
                            chain = sessions.rotate(chain)
                            done = number("done")
                            assert not sessions.get(chain) or born >= done, "it has outlived the end of all"
                        except kv.KeyNotFound:
                            chain = None
                    print(chain or sessions.create(0, user="ada"))
            """,
            shared,
        )
        sessions.end_user("ada")
        ids = " ".join(said).split()
        assert len(ids) == 3
        assert not any(map(sessions.get, ids))


class Meanwhile(Wrapper):
    """A store that does something else once, just before or after a call of a method."""

    def __init__(self, store: kv.Store, method: str, do: Callable[[], object], *, before: bool = False) -> None:
        super().__init__(store)
        self.plan = {method: do}
        self.before = before

    def _read(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        do = self.plan.pop(method.__name__, None)
        if do and self.before:
            do()
        answer = method(*args, **kwargs)
        if do and not self.before:
            do()
        return answer

    def _write(self, keys: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        return self._read(method, *args, **kwargs)


def test_what_ends_in_the_midst_of_a_call_is_over(memory: kv.Store) -> None:
    plain = Sessions(memory, int)

    def meanwhile(method: str, do: Callable[[], object], *, before: bool = False) -> Sessions[int]:
        return Sessions(Meanwhile(memory, method, do, before=before), int)

    def end_ada() -> None:
        plain.end_user("ada")

    # created with the stamp that ended
    assert plain.get(meanwhile("get", end_ada).create(0, user="ada")) is None
    assert plain.get(meanwhile("set", end_ada, before=True).create(0, user="ada")) is None
    # rotated with the stamp that ended: before and after the old id ends
    for before in (True, False):
        old = plain.create(0, user="ada")
        assert plain.get(meanwhile("update", end_ada, before=before).rotate(old)) is None
        old = plain.create(0)
        assert plain.get(meanwhile("update", end_ada, before=before).rotate(old, user="ada")) is None
    # updated while it ends: nobody sees it
    old = plain.create(0, user="ada")
    with pytest.raises(kv.KeyNotFound):
        meanwhile("update", end_ada).update(old, lambda n: n + 1)
    # read, and ended before it could live on
    old = plain.create(0)
    assert meanwhile("expire", lambda: plain.end(old), before=True).get(old) is None
    # found by a rotation, and ended, rotated or updated before that takes it
    old = plain.create(0)
    with pytest.raises(kv.KeyNotFound):
        meanwhile("update", lambda: plain.end(old), before=True).rotate(old)
    old = plain.create(0)
    new = plain.get(meanwhile("update", lambda: plain.set(old, 7), before=True).rotate(old))
    assert new
    assert new.data == 7


@both
def test_a_rotation_that_is_cut_off_ends_the_session_and_doubles_nothing(opens: Callable[..., Any]) -> None:
    async def body(store: Any) -> None:
        cut: Any = (
            type(store)(CutOff(store._store, "update", kv.OutcomeUnknown()))
            if opens is kv.open
            else AsyncCutOff(store, "update", kv.OutcomeUnknown())
        )
        sessions = on(store)
        id = await sessions.create("x", user="ada")
        with pytest.raises(kv.OutcomeUnknown):
            await on(cut).rotate(id)
        assert await sessions.get(id) is None
        assert await store.namespace("session").count() == 0

    run(opens("memory://"), body)


# what is stored, shown and refused


def test_ids_are_stored_and_shown_nowhere(memory: kv.Store) -> None:
    sessions: Sessions[Any] = Sessions(memory)
    id = sessions.create({"secret": "s3cret"}, user="ada")
    session = sessions.get(id)
    stored = b"".join(key.encode() + value for key, value in memory.namespace("session").scan())
    assert id.encode() not in stored
    assert id not in repr(sessions) + repr(session) + str(session)
    assert "s3cret" not in repr(session)
    memory.namespace("session").set(key(id), b"foreign")
    for call in (sessions.get, sessions.end, sessions.rotate, lambda one: sessions.set(one, 1)):
        with pytest.raises(kv.CorruptData, match="is not a session; it was left as it is") as raised:
            call(id)
        assert id not in str(raised.value)
    assert memory.namespace("session").get(key(id)) == b"foreign"
    sessions.end(lost := sessions.create(1))
    with pytest.raises(kv.KeyNotFound) as missing:
        sessions.rotate(lost)
    assert lost not in str(missing.value)


def test_a_stamp_that_is_not_ours_ends_nothing_but_the_users_sessions(memory: kv.Store) -> None:
    sessions: Sessions[Any] = Sessions(memory)
    before = sessions.create(1, user="ada")
    memory.namespace("session").namespace("user").set("ada", b"\xff anything")
    assert sessions.get(before) is None
    assert sessions.get(sessions.create(2, user="ada"))


@dataclass
class Visit:
    pages: int
    name: str


def test_data_is_of_its_type_or_refused_before_any_io() -> None:
    store = kv.open("memory://")
    sessions = Sessions(store, Visit)
    assert_type(sessions, Sessions[Visit])
    id = sessions.create(Visit(1, "a"))
    assert sessions.update(id, lambda visit: Visit(visit.pages + 1, visit.name)) == Visit(2, "a")
    with pytest.raises(kv.InvalidValue, match="the value for 'a session' cannot be stored") as raised:
        sessions.update(id, lambda _: Visit("s3cret", "a"))  # type: ignore[arg-type]
    assert "s3cret" not in str(raised.value)
    session = sessions.get(id)
    assert session
    assert session.data == Visit(2, "a")
    other = Sessions(store, int)
    with pytest.raises(kv.CorruptData):
        other.get(id)
    with pytest.raises(kv.CorruptData):
        other.update(id, abs)
    assert sessions.get(id) == session
    other.set(id, 5)  # what is replaced need not be of the type
    new = other.rotate(id)
    store.close()
    with pytest.raises(kv.InvalidValue):
        sessions.create({"pages": 1})  # type: ignore[arg-type]
    with pytest.raises(kv.InvalidValue):
        other.set(new, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="plain function"):
        other.update(new, a_coroutine)  # type: ignore[arg-type]
    calls: list[Callable[[Any], object]] = [sessions.get, sessions.end, sessions.rotate, lambda one: other.set(one, 1)]
    for call in calls:
        with pytest.raises(kv.InvalidKey, match="the id of a session must be a str, not NoneType"):
            call(None)
    calls = [
        lambda user: sessions.create(Visit(1, ""), user=user),
        lambda user: sessions.rotate(new, user=user),
        sessions.end_user,
    ]
    for call in calls:
        for user in ("", "a\nb", 5):
            with pytest.raises(kv.InvalidKey, match="user"):
                call(user)


async def a_coroutine(data: int) -> int:
    return data


@pytest.mark.parametrize("bad", [0, -1, math.nan, True, "60", timedelta(0)])
def test_times_that_are_none_are_refused(memory: kv.Store, bad: Any) -> None:
    for options in ({"idle": bad}, {"lifetime": bad}):
        with pytest.raises(kv.InvalidTTL):
            Sessions(memory, **options)
    with pytest.raises(kv.InvalidTTL, match="idle must end"):
        Sessions(memory, idle=None)
    with pytest.raises(TypeError, match="AsyncSessions stands on"):
        AsyncSessions(memory)  # type: ignore[call-overload]


def test_how_many_calls_each_makes(memory: kv.Store) -> None:
    store = CutOff(memory)
    sessions: Sessions[int] = Sessions(store)

    def calls(do: Callable[[], Any], says: str) -> Any:
        store.calls.clear()
        answer = do()
        assert " ".join(store.calls) == says
        return answer

    id = calls(lambda: sessions.create(1), "set")
    calls(lambda: sessions.get(id), "get expire")
    calls(lambda: sessions.set(id, 2), "update")
    id = calls(lambda: sessions.rotate(id), "get update set")
    id = calls(lambda: sessions.rotate(id, user="ada"), "get get update set")
    calls(lambda: sessions.get(id), "get get expire")
    calls(lambda: sessions.set(id, 2), "update get")
    id = calls(lambda: sessions.rotate(id, user="ada"), "get get update set")
    calls(lambda: sessions.end(id), "update get")
    calls(lambda: sessions.end_user("ada"), "set")
