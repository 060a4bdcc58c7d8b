"""Settings: their types and defaults, categories, those of users, and batches that are never seen half."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, assert_type

import pytest
from adapted import CutOff
from colours import around, both, run
from programs import pythons

import kv
from kv.adapters import AsyncSettings, Setting, Settings
from kv.testing.suite import together

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Colours:
    ink: str
    paper: str = "white"


DIGEST = Setting("mail.digest", default=True)
PORT = Setting("mail.imap.port", 993)
THEME: Setting[str] = Setting("ui.theme", "light", kind=Literal["light", "dark"])
COLOURS = Setting("ui.colours", Colours("black"))
TAGS = Setting("tags", ["new"])
RATIO = Setting("ratio", 0.5)
NAME: Setting[str | None] = Setting("name", None, kind=str | None)
ALL: list[Setting[Any]] = [DIGEST, PORT, THEME, COLOURS, TAGS, RATIO, NAME]
DEFAULTS = {
    "mail.digest": True,
    "mail.imap.port": 993,
    "ui.theme": "light",
    "ui.colours": Colours("black"),
    "tags": ["new"],
    "ratio": 0.5,
    "name": None,
}


def on(store: Any, *scope: str) -> Any:
    """Settings of either colour, or those of a user."""

    def make(cls: Any) -> Callable[[Any], Any]:
        def one(store: Any) -> Any:
            settings = cls(store, ALL)
            for user in scope:
                settings = settings.of(user)
            return settings

        return one

    return around(store, make(Settings), make(AsyncSettings))


@both
def test_a_setting_is_its_default_until_it_is_set(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        settings = on(store)
        assert await settings.all() == DEFAULTS
        await settings.set(DIGEST, False)
        await settings.set_many({PORT: 143, COLOURS: Colours("red", "grey"), NAME: "x", RATIO: 1})
        assert await settings.get(DIGEST) is False
        assert repr(await settings.get(RATIO)) == "1.0"
        changed = {**DEFAULTS, "mail.digest": False, "mail.imap.port": 143, "ui.colours": Colours("red", "grey")}
        assert await settings.all() == {**changed, "name": "x", "ratio": 1.0}
        assert await settings.update(TAGS, lambda tags: [*tags, "old"]) == ["new", "old"]
        assert await settings.category("mail") == {"mail.digest": False, "mail.imap.port": 143}
        assert await settings.category("mail.imap") == {"mail.imap.port": 143}
        assert set(await settings.category("")) == {"tags", "ratio", "name"}
        await settings.reset(PORT, THEME)
        assert await settings.get(PORT) == 993
        assert await settings.get(DIGEST) is False
        await settings.reset(*ALL)
        assert await settings.all() == DEFAULTS
        assert await store.namespaces() == []  # nothing is left

    run(opens(anywhere), body)


@both
def test_a_user_has_own_values_over_the_common_ones(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        common, ada, bob = on(store), on(store, "ada"), on(store, "bob")
        await common.set_many({THEME: "dark", PORT: 143})
        await ada.set(THEME, "light")
        assert [await one.get(THEME) for one in (common, ada, bob)] == ["dark", "light", "dark"]
        assert await ada.update(PORT, lambda port: port + 1) == 144
        assert await common.get(PORT) == await bob.get(PORT) == 143
        assert await ada.category("mail") == {"mail.digest": True, "mail.imap.port": 144}
        below = on(store, "ada", "phone")
        assert await below.get(PORT) == 144
        await below.set(DIGEST, False)
        assert await below.all() == {**DEFAULTS, "mail.digest": False, "mail.imap.port": 144}
        assert await ada.get(DIGEST) is await on(store, "phone").get(DIGEST) is True
        await ada.reset(*ALL)
        assert await below.get(PORT) == 143
        for odd in ("values", "ada/phone", "a:b", "{x}", "é"):
            await on(store, odd).set(TAGS, [odd])
            assert await on(store, odd).get(TAGS) == [odd]
        assert await common.get(TAGS) == ["new"]

    run(opens(anywhere), body)


@both
def test_side_by_side_no_change_is_lost(opens: Callable[..., Any], anywhere: str) -> None:
    async def body(store: kv.AsyncStore) -> None:
        settings = on(store)
        changes = [settings.update(PORT, lambda port: port + 1) for _ in range(20)]
        await together(store, *changes, settings.set(THEME, "dark"), settings.set(DIGEST, False))
        assert await settings.all() == {
            **DEFAULTS,
            "mail.imap.port": 993 + 20,
            "ui.theme": "dark",
            "mail.digest": False,
        }

    run(opens(anywhere), body)


def test_among_processes_a_batch_is_never_seen_half_and_no_change_is_lost(shared: str) -> None:
    pythons(
        """
        import asyncio, sys, kv
        from kv.adapters import AsyncSettings, Setting, Settings
        A, B, C = Setting("a", 0), Setting("b.b", 0), Setting("c", 0)
        url, batches = sys.argv[1], range(me * 100, me * 100 + 25)
        def sync():
            with kv.open(url) as store:
                settings = Settings(store, [A, B, C])
                for n in batches:
                    settings.set_many({A: n, B: n})
                    settings.update(C, lambda c: c + 1)
                    seen = settings.all()
                    assert seen["a"] == seen["b.b"], seen
        async def main():
            async with kv.open_async(url) as store:
                settings = AsyncSettings(store, [A, B, C])
                for n in batches:
                    await settings.set_many({A: n, B: n})
                    await settings.update(C, lambda c: c + 1)
                    seen = await settings.all()
                    assert seen["a"] == seen["b.b"], seen
        asyncio.run(main()) if me % 2 else sync()
        """,
        shared,
    )
    with kv.open(shared) as store:
        assert Settings(store, [count := Setting("c", 0)]).get(count) == 100


# what is stored


def test_all_of_a_scope_is_one_entry_of_json(memory: kv.Store) -> None:
    settings = Settings(memory, ALL)
    settings.set_many({DIGEST: False, COLOURS: Colours("red"), TAGS: ["a", "b"]})
    stored = memory.namespace("settings").get("values")
    assert json.loads(stored or b"") == {
        "mail.digest": False,
        "ui.colours": {"ink": "red", "paper": "white"},
        "tags": ["a", "b"],
    }


def test_values_of_settings_that_are_not_declared_stay(memory: kv.Store) -> None:
    newer = Setting("mail.newer", 1)
    Settings(memory, [newer]).set(newer, 10**5000)  # of any size
    older = Settings(memory, ALL)
    older.set(PORT, 1)
    older.reset(*ALL)
    assert "mail.newer" not in older.all()
    assert Settings(memory, [newer]).get(newer) == 10**5000


def test_how_many_calls_each_makes(memory: kv.Store) -> None:
    store = CutOff(memory)
    settings = Settings(store, ALL)

    def calls(do: Callable[[], object], says: str) -> None:
        store.calls.clear()
        do()
        assert " ".join(store.calls) == says

    calls(lambda: settings.get(PORT), "get")
    calls(settings.all, "get")
    calls(lambda: settings.of("ada").get(PORT), "get get")
    calls(lambda: settings.of("ada").all(), "get get")
    calls(lambda: settings.set_many({PORT: 1, TAGS: []}), "update")
    calls(lambda: settings.update(PORT, abs), "update")
    calls(lambda: settings.of("ada").update(PORT, abs), "get update")
    calls(lambda: settings.of("ada").get(PORT), "get")
    calls(lambda: settings.reset(PORT), "update")
    calls(settings.reset, "")
    calls(lambda: settings.set_many({}), "")


def test_what_a_caller_changes_in_a_value_changes_nothing_else(memory: kv.Store) -> None:
    settings = Settings(memory, ALL)
    assert_type(settings.of("ada").get(TAGS), list[str])
    assert_type(settings.update(PORT, lambda port: port), int)
    for _ in range(2):
        settings.get(TAGS).append("mine")
        TAGS.default.append("mine")
        assert settings.get(TAGS) == ["new"]
    settings.of("ada").update(TAGS, lambda tags: tags.append("mine") or tags)  # type: ignore[func-returns-value]
    assert settings.get(TAGS) == ["new"]


# what is refused


def test_a_value_of_another_type_is_refused_before_any_io_and_changes_nothing() -> None:
    store = kv.open("memory://")
    settings = Settings(store, ALL)
    for fn in (lambda _: "s3cret", lambda _: True):
        with pytest.raises(kv.InvalidValue, match=r"'mail\.imap\.port' cannot be stored"):
            settings.update(PORT, fn)  # type: ignore[arg-type]
    assert settings.all() == DEFAULTS
    store.close()
    bad: list[tuple[Setting[Any], Any]] = [
        (PORT, True),
        (PORT, "993"),
        (PORT, 1.0),
        (DIGEST, 1),
        (DIGEST, None),
        (THEME, "s3cret"),
        (COLOURS, {"ink": "red"}),
        (TAGS, ("a",)),
        (TAGS, [b"bytes"]),
        (RATIO, float("nan")),
    ]
    for setting, value in bad:
        with pytest.raises(kv.InvalidValue) as raised:
            settings.set_many({DIGEST: False, setting: value})
        assert repr(setting.name) in str(raised.value)
        assert "s3cret" not in str(raised.value)
    for wrong in ("mail.digest", None, 5):
        with pytest.raises(TypeError, match="expected a Setting"):
            settings.get(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="plain function"):
        settings.update(PORT, a_coroutine)  # type: ignore[arg-type]


async def a_coroutine(port: int) -> int:
    return port


def test_an_unknown_name_is_refused_with_those_near_to_it() -> None:
    store = kv.open("memory://")
    settings = Settings(store, ALL)
    store.close()
    assert settings["mail.digest"] is DIGEST
    assert [*settings] == ALL
    with pytest.raises(kv.KeyNotFound, match=r"no setting 'mail\.digset'; there is 'mail\.digest'"):
        settings["mail.digset"]
    with pytest.raises(kv.KeyNotFound, match=r"no setting 'x'; there is 'mail\.digest', 'mail\.imap\.port', 'name'"):
        settings.get(Setting("x", 1))
    with pytest.raises(kv.KeyNotFound, match=r"'mail\.digest' here is another Setting"):
        settings.set(Setting("mail.digest", default=True), value=False)
    with pytest.raises(kv.KeyNotFound, match="no category 'mial'; there is 'mail'"):
        settings.category("mial")
    for name in ("", "a\x00", "x" * 256, None):
        with pytest.raises(kv.InvalidKey):
            settings.of(name)  # type: ignore[arg-type]


def test_what_is_stored_with_another_type_is_named_and_stays(memory: kv.Store) -> None:
    settings = Settings(memory, ALL)
    entries = memory.namespace("settings")
    entries.set("values", stored := b'{"mail.digest": 1, "mail.imap.port": 143}')
    assert settings.get(PORT) == 143
    calls: list[Callable[[], object]] = [
        lambda: settings.get(DIGEST),
        settings.all,
        lambda: settings.category("mail"),
        lambda: settings.update(DIGEST, lambda on: not on),
        lambda: settings.of("ada").get(DIGEST),
    ]
    for call in calls:
        with pytest.raises(
            kv.CorruptData, match=r"'mail\.digest' is not what this codec wrote: expected bool, got int"
        ):
            call()
    assert entries.get("values") == stored
    settings.set(DIGEST, value=False)  # that mends it
    assert settings.get(DIGEST) is False


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"5", b"\x00{}", b"\xff", b"[" * 100_000])
def test_what_is_no_settings_stays_as_it_is(memory: kv.Store, value: bytes) -> None:
    settings = Settings(memory, ALL)
    entries = memory.namespace("settings")
    entries.set("values", value)
    calls: list[Callable[[], object]] = [
        settings.all,
        lambda: settings.get(PORT),
        lambda: settings.set(PORT, 1),
        lambda: settings.reset(PORT),
    ]
    for call in calls:
        with pytest.raises(kv.CorruptData, match="is not the values of settings; it was left as it is"):
            call()
    assert entries.get("values") == value


def test_settings_that_are_none_are_refused(memory: kv.Store) -> None:
    for name in ("", "a\n", "a..b", ".a", "a.", 5):
        with pytest.raises(kv.InvalidKey, match="the name of a setting"):
            Setting(name, 1)  # type: ignore[arg-type]
    with pytest.raises(kv.InvalidValue):
        Setting("x", 1, kind=str)
    with pytest.raises(kv.InvalidValue):
        Setting("x", b"bytes")
    with pytest.raises(kv.ConfigError, match=r"say of which type 'x' is: kind=str \| None"):
        Setting("x", None)
    with pytest.raises(kv.ConfigError, match="cannot be stored"):
        Setting("x", print)
    with pytest.raises(kv.ConfigError, match="two settings have the name 'ratio'"):
        Settings(memory, [*ALL, Setting("ratio", 1)])
    with pytest.raises(TypeError, match="of the type Setting, not str"):
        Settings(memory, ["x"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="AsyncSettings stands on"):
        AsyncSettings(memory, ALL)  # type: ignore[arg-type]


def test_what_shows_of_settings(memory: kv.Store) -> None:
    assert repr(Settings(memory, ALL).of("a").of("b")) == "<Settings of 'a' of 'b', 7 settings, on <MemoryStore>>"
    assert repr(DIGEST) == "<Setting 'mail.digest'>"
    assert (PORT.category, TAGS.category) == ("mail.imap", "")
