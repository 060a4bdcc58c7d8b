"""Broken: keys and values."""

# mypy: disable-error-code="override, arg-type, return-value, func-returns-value, index, assignment"

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

from tiny import AsyncTinyStore, TinyStore

from broken.base import Tiny, caught_by
from kv.errors import BackendError, InvalidKey, InvalidValue
from kv.keys import fnv1a_64
from kv.values import check_value

if TYPE_CHECKING:
    from collections.abc import Callable


# keys


def renamed(name: str, rename: Callable[[str], str]) -> type[Tiny]:
    """Give a store that takes some keys for others."""

    def update_many(self: Tiny, keys: Any, fn: Any, **ttl: Any) -> dict[str, bytes]:
        asked = [*keys]
        there = {rename(key): key for key in asked if isinstance(key, str)}

        def mine(found: dict[str, bytes]) -> dict[str, bytes]:
            answer = fn({there[key]: value for key, value in found.items()})
            return {rename(key): value for key, value in answer.items()}

        answer = TinyStore.update_many(self, map(rename, asked), mine, **ttl)
        return {there[key]: value for key, value in answer.items()}

    def one(method: Any) -> Any:
        return lambda self, key, *args, **kwargs: method(self, rename(key), *args, **kwargs)

    methods = {method: one(getattr(TinyStore, method)) for method in ("get", "set", "delete", "ttl", "persist")}
    return type(name, (Tiny,), {**methods, "update_many": update_many})


for _name, _rename in {
    "KeysTrimmed": lambda key: key.strip() or key,
    "KeysComposed": lambda key: unicodedata.normalize("NFC", key),
    "KeysFolded": str.casefold,
    "KeysLowered": str.lower,
    "KeysCutAt255": lambda key: key[:255],
    "KeysWithoutAByteOrderMark": lambda key: key.replace("\ufeff", "") or key,
    "KeysWithUnderscoresForSpaces": lambda key: key.replace(" ", "_"),
    "KeysAsLatin1": lambda key: key.encode("latin-1", "replace").decode("latin-1"),
}.items():
    caught_by("test_every_valid_key_is_one_entry_of_its_own")(renamed(_name, _rename))

_names: dict[int, str] = {}

for _name, _check in {
    "KeysKnownByTheirHashAlone": "test_two_keys_with_one_hash_are_two_entries",
    "KeysListedByTheirHashAlone": "test_every_valid_key_is_one_entry_of_its_own",
}.items():
    caught_by(_check)(renamed(_name, lambda key: _names.setdefault(fnv1a_64(key.encode()), key)))


def taking(name: str, takes: Callable[[object], bool], *methods: str) -> type[Tiny]:
    """Give a store of which some methods do nothing about a bad key, and do not say so."""

    def lax(method: Any) -> Any:
        return lambda self, key, *args, **kwargs: None if takes(key) else method(self, key, *args, **kwargs)

    return type(name, (Tiny,), {method: lax(getattr(TinyStore, method)) for method in methods})


for _name, _takes, *_methods in [
    ("EmptyKeyTaken", lambda key: key == "", "get"),
    ("NullTaken", lambda key: isinstance(key, str) and "\0" in key, "ttl"),
    ("DeleteTaken", lambda key: isinstance(key, str) and "\x7f" in key, "set"),
    ("C1ControlTaken", lambda key: isinstance(key, str) and "\x85" in key, "persist"),
    ("SurrogateTaken", lambda key: isinstance(key, str) and "\ud800" in key, "expire"),
    ("LongKeyTaken", lambda key: isinstance(key, str) and len(key) == 2_049, "delete"),
    ("LongKeyMeasuredInCharacters", lambda key: isinstance(key, str) and 512 < len(key) <= 2_048, "size"),
    ("NumberTakenAsKey", lambda key: isinstance(key, int), "pop"),
    ("BytesTakenAsKey", lambda key: isinstance(key, bytes), "add"),
    ("NoneTakenAsKey", lambda key: key is None, "compare_and_set", "increment"),
    ("ListTakenAsKey", lambda key: isinstance(key, list), "exists"),
]:
    caught_by("test_what_is_no_key_is_refused_by_every_method")(taking(_name, _takes, *_methods))


@caught_by("test_a_key_that_is_a_kind_of_str_is_the_key_that_it_spells")
class KindOfStrRefused(Tiny):
    def set(self, key: Any, value: Any, **ttl: Any) -> None:
        if type(key) is not str:
            raise InvalidKey(f"{type(key)} is not str")
        super().set(key, value, **ttl)


# values


@caught_by("test_a_later_change_to_a_buffer_changes_nothing")
class BufferAliasedIn(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        super().set(key, value, ttl=ttl)
        if isinstance(value, bytearray | memoryview) and ttl is None:
            self.put(key, value)

    def get(self, key: str, default: Any = None) -> Any:
        value = super().get(key, default)
        return bytes(value) if isinstance(value, bytearray | memoryview) else value

    def get_many(self, keys: Any) -> dict[str, bytes]:
        return {key: bytes(value) for key, value in super().get_many(keys).items()}


@caught_by("test_a_change_to_a_buffer_while_the_call_is_under_way_changes_nothing")
class BufferReadLate(AsyncTinyStore):
    async def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        (await self._at()).set(key, value, ttl=ttl)


@caught_by("test_what_comes_back_is_always_bytes_of_its_own")
class BufferGivenOut(Tiny):
    def pop(self, key: str, default: Any = None) -> Any:
        value = super().pop(key, default)
        return bytearray(value) if isinstance(value, bytes) else value


@caught_by("test_what_comes_back_is_always_bytes_of_its_own")
class AnswerOfFnGivenBack(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        answers: list[Any] = []
        super().update(key, lambda current: answers.append(fn(current)) or answers[-1], **ttl)
        return answers[-1]


@caught_by("test_every_buffer_is_stored_as_the_bytes_that_it_holds")
class WholeBufferOfAView(Tiny):
    def set(self, key: str, value: Any, **ttl: Any) -> None:
        super().set(key, value.obj if isinstance(value, memoryview) else value, **ttl)


@caught_by("test_every_value_comes_back_as_it_was")
class NullsAtTheEndLost(Tiny):
    def set(self, key: str, value: Any, **ttl: Any) -> None:
        super().set(key, value.rstrip(b"\0") if isinstance(value, bytes) else value, **ttl)


@caught_by("test_every_value_comes_back_as_it_was")
class ValuesAsText(Tiny):
    def get(self, key: str, default: Any = None) -> Any:
        value = super().get(key, default)
        return value.decode(errors="replace").encode() if isinstance(value, bytes) else value


@caught_by("test_what_is_no_value_is_refused_by_every_method")
class StrTakenAsValue(Tiny):
    def set(self, key: str, value: Any, **ttl: Any) -> None:
        super().set(key, value.encode() if isinstance(value, str) else value, **ttl)


@caught_by("test_what_is_no_value_is_refused_by_every_method")
class NumberTakenAsValue(Tiny):
    def add(self, key: str, value: Any, **ttl: Any) -> bool:
        return super().add(key, b"%d" % value if type(value) is int else value, **ttl)


@caught_by("test_what_is_no_value_is_refused_by_every_method")
class NoneDeletesInSet(Tiny):
    def set(self, key: str, value: Any, **ttl: Any) -> None:
        if value is None:
            self.delete(key)
        else:
            super().set(key, value, **ttl)


@caught_by("test_an_answer_of_fn_that_is_no_value_changes_nothing")
class StrTakenFromFn(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        def encoded(current: Any) -> Any:
            value = fn(current)
            return value.encode() if isinstance(value, str) else value

        return super().update(key, encoded, **ttl)


@caught_by("test_the_empty_value_is_a_value")
class EmptyValueMissing(Tiny):
    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key) or default


@caught_by("test_the_empty_value_is_a_value")
class EmptyValuePoppedAsDefault(Tiny):
    def pop(self, key: str, default: Any = None) -> Any:
        return super().pop(key) or default


@caught_by("test_the_empty_value_is_a_value")
class EmptyAnswerDeletes(Tiny):
    def update(self, key: str, fn: Any, **ttl: Any) -> Any:
        return super().update(key, lambda current: fn(current) or None, **ttl)


@caught_by("test_the_message_about_a_str_names_what_takes_it")
class NoHelpWithStr(Tiny):
    def add(self, key: str, value: Any, *, ttl: Any = None) -> bool:
        if isinstance(value, str):
            raise InvalidValue("no")
        return super().add(key, value, ttl=ttl)


@caught_by("test_exists_and_size_describe_the_entry")
class SizeInCharacters(Tiny):
    def size(self, key: str) -> int | None:
        value = self.get(key)
        return None if value is None else len(value.decode(errors="ignore"))


@caught_by("test_set_replaces_what_was_there")
class SetKeepsTheLongerValue(Tiny):
    def set(self, key: str, value: Any, *, ttl: Any = None) -> None:
        super().set(key, max(check_value(value, key), self.get(key, b""), key=len), ttl=ttl)


@caught_by("test_get_gives_what_was_set")
class GetGivesWhateverIsThere(Tiny):
    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key) or next((value for value, _ in self._table.entries.values()), default)


@caught_by("test_a_valid_key_works_in_every_method")
class PersistKnowsOnlyASCII(Tiny):
    def persist(self, key: str) -> bool:
        if isinstance(key, str) and any("~" < char < "\ud800" and char >= "\xa0" for char in key):
            raise BackendError("syntax error")
        return super().persist(key)
