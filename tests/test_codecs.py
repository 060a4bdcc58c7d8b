"""Codecs: what goes in comes out as it was, or is refused; and no message shows a value."""

from __future__ import annotations

import enum
import math
import sys
import traceback
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, TypedDict, cast
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import kv
from kv import codecs
from kv.codecs import alike, codec_for, decoded, encoded
from kv.exact import MAX_DEPTH

SECRET = "hunter2-secret"


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    ADA = "ada"


class Text(str):
    __slots__ = ()


@dataclass
class User:
    name: str
    visits: int = 0
    tags: list[str] = field(default_factory=list)


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    colour: Colour = Colour.RED


class Cart(TypedDict):
    items: list[int]


@attrs.define
class Pair:
    one: int
    two: float = 0.0


class Model(pydantic.BaseModel):
    name: str
    born: date | None = None
    pairs: dict[str, int] = {}


class Loose(pydantic.BaseModel, extra="allow"):
    a: int = 0


class Closed(pydantic.BaseModel, extra="forbid"):
    a: int = 0

    @pydantic.field_validator("a")
    @classmethod
    def small(cls, a: int) -> int:
        if a > 10:
            raise ValueError(f"{a} {SECRET}")
        return a


@dataclass
class Choosy:
    name: str

    def __post_init__(self) -> None:
        if self.name == SECRET:
            raise ValueError(f"Expected `{self.name}`, as msgspec would say")


def there_and_back(codec: codecs.Codec[Any], value: object) -> object:
    return decoded(codec, encoded(codec, value, "k"), "k")


numbers = st.integers() | st.integers(-(2**80), 2**80) | st.sampled_from([10**640, -(10**1_000) - 1, 2**63, 0])
texts = st.text(st.characters(), max_size=20)
scalars = st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts
plain = st.recursive(scalars, lambda below: st.lists(below, max_size=4) | st.dictionaries(texts, below, max_size=4))


@settings(max_examples=200, deadline=None)
@given(plain | st.binary())
@example("\ud800")
@example([{"\ud800": "\udfff"}])
@example(b"")
@example(b"\0")
@example(b"null")
def test_json_gives_back_exactly_what_went_in(value: object) -> None:
    back = there_and_back(codecs.json(), value)
    assert (repr(back), alike(back, value)) == (repr(value), True)  # `repr` tells types, the order of keys, and -0.0


small = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.binary(max_size=20),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), below),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(small)
def test_msgpack_gives_back_exactly_what_went_in(value: object) -> None:
    back = there_and_back(codecs.msgpack(), value)
    assert (repr(back), alike(back, value)) == (repr(value), True)


KINDS: list[tuple[Any, Any]] = [
    *((kind, "json") for kind in (object, int, float, bytes, dict, User, Strict, Cart, Pair, Model, Closed, Choosy)),
    *((kind, "msgpack") for kind in (object, int, float, bytes, User, Strict, Cart, Pair)),
    *(
        (int | None, "json"),
        (bytes | None, "json"),
        (list[Colour], "json"),
        (Annotated[int, msgspec.Meta(ge=0)], "json"),
    ),
    *((object, "text"), (object, "raw")),
]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | plain.map(lambda value: encoded(codecs.json(), value, "k")))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"\x91" * 100_000)
@example(b"9" * 20_000)
@example(b"-" + b"9" * 5_000)
@example(b"1e999")
@example(b"NaN")
@example(b"\xef\xbb\xbf1")
@example(b'"\xed\xa0\x80"')
@example(b"\xd6\xff\x00\x00\x00\x01")
@example(b"\x81\x91\x01\x01")
def test_any_bytes_are_a_value_or_corrupt_and_never_another_error(data: bytes) -> None:
    for kind, name in KINDS:
        try:
            decoded(codec_for(name, kind), data, "k")
        except kv.CorruptData:
            continue


def test_what_json_would_change_is_refused() -> None:
    day = datetime(2026, 1, 1, tzinfo=UTC)
    loop: list[object] = []
    loop += [loop, loop]
    wrong: list[Any] = [
        *(
            (1, 2),
            {1},
            frozenset(),
            day,
            day.date(),
            timedelta(1),
            Decimal(1),
            UUID(int=1),
            Colour.RED,
            Level.LOW,
            Name.ADA,
        ),
        *(Text("a"), OrderedDict(a=1), {1: 2}, {None: 1}, {Text("a"): 1}, {b"a": 1}, {Name.ADA: 1}),
        *(math.nan, math.inf, -math.inf, bytearray(b"x"), object(), [b"x"], {"a": b"x"}, [1, (2,)], User("Ada"), loop),
    ]
    for value in wrong:
        with pytest.raises(kv.InvalidValue, match="'k'"):
            encoded(codecs.json(), value, "k")
    for value in wrong[:-6]:
        with pytest.raises(kv.InvalidValue, match="'k'"):
            encoded(codecs.msgpack(), value, "k")


def test_deep_values_are_written_where_they_can_be_read_and_refused_where_not() -> None:
    def nested(depth: int, kind: str) -> object:
        value: object = 1
        for _ in range(depth):
            value = [value] if kind == "list" else {"a": value}
        return value

    def deeper(frames: int, value: object) -> object:
        return deeper(frames - 1, value) if frames else there_and_back(codecs.json(), value)

    for kind in ("list", "dict"):
        value = nested(MAX_DEPTH - 1, kind)
        assert alike(deeper(sys.getrecursionlimit() // 2, value), value)
        for depth in (MAX_DEPTH, 10_000):
            for make in (codecs.json, codecs.msgpack):
                with pytest.raises(kv.InvalidValue, match="nested"):
                    encoded(make(object), nested(depth, kind), "k")
        with pytest.raises(kv.InvalidValue, match="deep"):
            encoded(codecs.json(list[Any] if kind == "list" else dict[str, Any]), nested(10_000, kind), "k")


def test_integers_are_stored_as_increment_wants_them() -> None:
    assert encoded(codecs.json(), -42, "k") == b"-42"
    assert encoded(codecs.json(int), 10**5_000, "k") == b"1" + b"0" * 5_000
    limit = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(640)
        for number in (10**640, -(10**700), 3**50_000):
            assert there_and_back(codecs.json(), [number]) == [number]
            assert there_and_back(codecs.json(int), number) == number
    finally:
        sys.set_int_max_str_digits(limit)


VALUES: list[tuple[Any, list[Any]]] = [
    (User, [User("Ada"), User("Bob", 2, ["a", "b"])]),
    (Strict, [Strict("Ada", Colour.RED)]),
    (Cart, [{"items": [1, 2]}]),
    (Pair, [Pair(1), Pair(1, 2.5)]),
    (Model, [Model(name="Ada"), Model(name="Ada", born=date(2026, 1, 1), pairs={"a": 1})]),
    (Loose, [Loose(), Loose.model_validate({"a": 1, "b": 2})]),
    (list[Model], [[Model(name="Ada")]]),
    (list[User] | None, [None, [User("Ada")]]),
    (dict[str, User], [{"a": User("Ada")}]),
    (tuple[int, str], [(1, "a")]),
    (set[int], [set(), {1, 2}]),
    (datetime, [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1)]),  # noqa: DTZ001
    (Decimal, [Decimal("1.10")]),
    (Literal["a", "b"], ["a"]),
    (bytes | None, [b"null", None, b""]),
    (bytes, [b"", b"null"]),
    (float, [1.0, 0.5, -0.0]),
    (Colour, [Colour.RED]),
    (Level, [Level.LOW]),
]


@pytest.mark.parametrize(("kind", "values"), VALUES, ids=lambda x: getattr(x, "__name__", "") or None)
def test_types_of_users_come_back_as_they_were(kind: Any, values: list[Any]) -> None:
    for value in values:
        assert alike(there_and_back(codecs.json(kind), value), value)
        if "pydantic" not in repr(type(codecs.json(kind))) and kind not in (Model, Loose, list[Model]):
            assert alike(there_and_back(codecs.msgpack(kind), value), value)
        if kind not in (list[Model], Cart):
            assert alike(there_and_back(codecs.pickle(object), value), value)


def test_what_a_type_would_change_is_refused() -> None:
    user: Any = User
    pair: Any = Pair
    wrong: list[tuple[Any, Any]] = [
        *(
            (User, user("Ada", True)),
            (User, user("Ada", 1.0)),
            (User, user("Ada", tags=("a",))),
            (User, user(Text("Ada"))),
        ),
        *((Pair, pair("1")), (Pair, pair(1, True)), (Cart, {"items": [1], "more": 2}), (Cart, {"items": (1,)})),
        *((int, True), (bool, 1), (str, b"a"), (bytes, "a"), (list, (1,)), (dict, OrderedDict()), (float, 2**53 + 1)),
        *((dict[str, int], OrderedDict(a=1)), (set[int], {1.0}), (set[int], {True}), (dict[int, int], {True: 1})),
        *((Model, Model.model_construct(name=5)), (Model, Model.model_construct(name="a", pairs={"a": "1"}))),
        *((User, {"name": "Ada"}), (User, b"bytes"), (User, None), (list[int], b"bytes"), (float, math.nan)),
    ]
    for kind, value in wrong:
        with pytest.raises(kv.InvalidValue, match="'k'"):
            encoded(codecs.json(kind), value, "k")


def test_a_schema_that_has_changed() -> None:
    for kind, name in ((User, "Ada"), (Model, "Ada")):
        codec: Any = codecs.json(kind)
        assert decoded(codec, b'{"name":"Ada"}', "k").name == name
        assert decoded(codec, b'{"name":"Ada","gone":1}', "k").name == name
        with pytest.raises(kv.CorruptData, match=r"missing.*name"):
            decoded(codec, b"{}", "k")
        with pytest.raises(kv.CorruptData, match=r"\$\.name"):
            decoded(codec, b'{"name":5}', "k")
    for closed, data in ((Strict, b'{"name":"Ada","gone":1}'), (Closed, b'{"a":1,"gone":1}')):
        with pytest.raises(kv.CorruptData, match="gone"):
            decoded(codecs.json(closed), data, "k")
    packed: codecs.Codec[User] = codecs.msgpack(User)
    assert decoded(packed, msgspec.msgpack.encode({"name": "Ada"}), "k") == User("Ada")


class Bad:
    decimal = False

    def encode(self, value: str) -> bytes:
        raise RuntimeError(value)

    def decode(self, data: bytes) -> str:
        raise RuntimeError(data)


def test_no_message_and_no_traceback_shows_a_value() -> None:
    stored = SECRET.encode()
    user: Any = User
    long: Any = Annotated[str, msgspec.Meta(max_length=3)]
    writes: list[tuple[Any, Any]] = [
        *((codecs.json(), {SECRET: (SECRET,)}), (codecs.json(), {SECRET: {5: SECRET}}), (codecs.json(int), SECRET)),
        *(
            (codecs.json(User), user("a", SECRET)),
            (codecs.json(Model), Model.model_construct(name=5, pairs={SECRET: SECRET})),
        ),
        *(
            (codecs.json(list[long]), [SECRET]),
            (codecs.json(Colour), SECRET),
            (codecs.text(), 5),
            (codecs.raw(), SECRET),
        ),
        *((codecs.msgpack(), {SECRET: {SECRET}}), (codecs.pickle(int), SECRET), (Bad(), SECRET)),
        *((codecs.json(Closed), Closed.model_construct(a=11)), (codecs.pickle(), lambda: SECRET)),
    ]
    reads: list[tuple[Any, bytes]] = [
        *((codecs.json(), stored), (codecs.json(int), b'"%s"' % stored), (codecs.json(Colour), b'"%s"' % stored)),
        *((codecs.json(User), b'{"name":"a","visits":"%s"}' % stored), (codecs.json(list[long]), b'["%s"]' % stored)),
        *((codecs.json(Literal["a"]), b'"%s"' % stored), (codecs.json(date), b'"%s"' % stored), (Bad(), stored)),
        *(
            (codecs.json(Choosy), b'{"name":"%s"}' % stored),
            (codecs.json(Closed), b'{"a":11}'),
            (codecs.text(), b"\xff" + stored),
        ),
        *(
            (codecs.json(Model), b'{"name":"a","pairs":{"%s":"%s"}}' % (stored, stored)),
            (codecs.json(UUID), b'"%s"' % stored),
        ),
        *(
            (codecs.json(Model), b'{"name":"a","born":"%s"}' % stored),
            (codecs.json(Model), stored),
            (codecs.msgpack(int), stored),
        ),
        *(
            (codecs.pickle(), b"c" + stored + b"\n" + stored + b"\n."),
            (codecs.json(dict[str, int]), b'{"%s":"a"}' % stored),
        ),
    ]
    for codec, value in writes:
        with pytest.raises(kv.InvalidValue, match="'k'") as refused:
            encoded(codec, value, "k")
        assert SECRET not in "".join(traceback.format_exception_only(refused.value)) + str(refused.value.__cause__)
        assert refused.value.__suppress_context__ or refused.value.__context__ is None
    for codec, data in reads:
        with pytest.raises(kv.CorruptData, match="'k'") as corrupt:
            decoded(codec, data, "k")
        assert SECRET not in "".join(traceback.format_exception_only(corrupt.value)) + str(corrupt.value.__cause__)
        assert corrupt.value.__suppress_context__


def test_a_codec_is_named_made_or_given() -> None:
    assert there_and_back(codec_for("msgpack", User), User("Ada")) == User("Ada")
    assert there_and_back(codec_for(codecs.msgpack, User), User("Ada")) == User("Ada")
    assert there_and_back(codec_for(codecs.text(), str), "a") == "a"

    class Made:
        def __init__(self, kind: Any) -> None:
            self.kind = kind

        def encode(self, value: str) -> Any:
            return value

        def decode(self, data: bytes) -> str:
            return data.decode()

    made: Any = codec_for(cast("Any", Made), str)
    assert made.kind is str
    with pytest.raises(kv.InvalidValue, match="Made made str"):
        encoded(made, "a", "k")
    wrong: list[Any] = ["yaml", 5, object(), lambda _: 5]
    for codec in wrong:
        with pytest.raises(kv.ConfigError):
            codec_for(codec, object)


def test_a_type_that_cannot_be_read_back_is_refused_when_it_is_named() -> None:
    class Own:
        pass

    wrong: list[tuple[Any, Any]] = [
        *((Own, "json"), (Own, "msgpack"), (Model, "msgpack"), (int, "text"), (str, "raw"), (int | Own, "json")),
    ]
    for kind, codec in wrong:
        with pytest.raises(kv.ConfigError):
            codec_for(codec, kind)


def test_a_pickle_is_only_of_the_type_and_only_where_it_is_named() -> None:
    assert there_and_back(codecs.pickle(tuple), (1, {2})) == (1, {2})
    with pytest.raises(kv.InvalidValue, match="expected tuple"):
        encoded(codecs.pickle(tuple), [1], "k")
    with pytest.raises(kv.CorruptData, match="expected int"):
        decoded(codecs.pickle(int), encoded(codecs.pickle(), "a", "k"), "k")
    for name in ("json", "msgpack"):
        with pytest.raises(kv.CorruptData):
            decoded(codec_for(name, object), encoded(codecs.pickle(), [1], "k"), "k")
