"""The file format of exports: what travels in it, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
from typing import TYPE_CHECKING, Any

import pytest
from exports import SMALL, SMALL_TEXT, TREE, at, contents, exported, fill, load, signed
from hypothesis import given
from hypothesis import strategies as st

import kv
from kv import transfer
from kv.lines import Reader, Writer
from kv.store import Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exports import Contents


# the format


def test_the_format_is_as_documented(memory: kv.Store) -> None:
    data = exported(fill(memory, SMALL))
    last = f'{{"end":true,"entries":3,"sha256":"{hashlib.sha256(SMALL_TEXT).hexdigest()}"}}\n'
    assert data == SMALL_TEXT + last.encode()


def test_an_export_of_nothing_is_an_export(memory: kv.Store) -> None:
    data = exported(memory)
    assert len(data.splitlines()) == 2
    assert load(memory, data) == (0, 0, 0, 0, 0)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20),
        st.tuples(st.binary(), st.none() | st.integers(1, 2**53)),
    )
)
def test_any_entry_comes_back_from_its_line(entries: dict[str, tuple[bytes, int | None]]) -> None:
    records = [Record(key, *entries[key]) for key in sorted(entries)]
    writer, reader = Writer(), Reader("test")
    data = writer.begin() + writer.page(("n", "é"), records) + writer.end()
    assert data.count(b"\n") == len(records) + 2
    read = [reader.line(line) for line in data.splitlines(keepends=True)]
    reader.finish()
    assert read == [None, *((("n", "é"), record) for record in records), None]


def test_what_goes_out_comes_in_bit_by_bit(make: Callable[[], kv.Store]) -> None:
    store = fill(make(), TREE)
    data = exported(store)
    other = make()
    done = load(other, data)
    assert contents(other) == TREE
    assert done.stored == done.entries == sum(map(len, TREE.values()))
    assert exported(other) == data


def test_every_backend_writes_the_same_export(tmp_path: Path, memory: kv.Store) -> None:
    with kv.open(f"sqlite:///{tmp_path}/a.db") as store:
        assert exported(fill(store, TREE)) == exported(fill(memory, TREE))


def test_more_entries_than_a_page(make: Callable[[], kv.Store]) -> None:
    tree: Contents = {
        (): {f"{n:05}": (b"%d" % n, None) for n in range(3_000)},
        ("n",): {str(n): (b"", None) for n in range(1_234)},
    }
    store = make()
    load(store, exported(fill(make(), tree)))
    assert contents(store) == tree


def test_paths_are_relative_to_what_is_exported(make: Callable[[], kv.Store]) -> None:
    store = fill(make(), TREE)
    other = make()
    load(other.namespace("in").namespace("here"), exported(store.namespace("a")))
    assert contents(other) == {("in", "here"): TREE["a",], ("in", "here", "b"): TREE["a", "b"]}


def test_a_live_deadline_travels(make: Callable[[], kv.Store]) -> None:
    store, other = make(), make()
    store.set("k", b"v", ttl=1_000)
    load(other, exported(store))
    left = other.ttl("k")
    assert left is not None
    assert 900 < left <= 1_000.001
    assert store.ttl("k") != math.inf


# what is refused


def refused(store: kv.Store, data: bytes, *, line: int | None = None) -> str:
    """Import it, see that it fails and that nothing has changed, and give the message."""
    store.set("here before", b"1")
    with pytest.raises(kv.CorruptData) as caught:
        load(store, data, replace=True)
    assert contents(store) == {(): {"here before": (b"1", None)}}
    message = str(caught.value)
    assert message.endswith("nothing has been imported")
    assert "\n" not in message
    if line is not None:
        assert f", line {line}: " in message
    return message


def test_a_file_that_is_cut_anywhere_is_refused(memory: kv.Store) -> None:
    with kv.open("memory://") as store:
        data = exported(fill(store, SMALL))
    for length in range(len(data)):
        refused(memory, data[:length])


def test_a_file_with_one_byte_changed_is_refused(memory: kv.Store) -> None:
    with kv.open("memory://") as store:
        data = exported(fill(store, SMALL))
    for index in range(len(data)):
        for flipped in (1, 0x20, 0x80):
            damaged = bytearray(data)
            damaged[index] ^= flipped
            refused(memory, bytes(damaged))


def test_the_message_names_the_line(memory: kv.Store) -> None:
    good = SMALL_TEXT.splitlines(keepends=True)
    assert "empty" in refused(memory, b"")
    assert "not an export" in refused(memory, b"SQLite format 3\x00" + bytes(5_000), line=1)
    assert "not an export" in refused(memory, b'{"format":"other","version":1}\n', line=1)
    assert "not an export" in refused(memory, b"hello\n", line=1)
    assert "not an export" in refused(memory, b"[" * 100_000, line=1)
    assert "not an export" in refused(memory, "\ufeff".encode() + SMALL_TEXT, line=1)
    assert "gzip" in refused(memory, gzip.compress(SMALL_TEXT), line=1)
    assert "version 2" in refused(memory, b'{"format":"anykv","version":2}\n', line=1)
    assert "version True" in refused(memory, b'{"format":"anykv","version":true}\n', line=1)
    assert "cut off" in refused(memory, b"".join(good), line=4)
    assert "cut off" in refused(memory, b"".join(good)[:-10], line=4)
    assert "not UTF-8" in refused(memory, signed(b'{"key":"a","value":"\xff"}'), line=2)
    assert "not JSON" in refused(memory, signed('{"key":"a","value":"b"'), line=2)
    assert "not JSON" in refused(memory, signed("[" * 100_000), line=2)
    assert "not a JSON object" in refused(memory, signed("[]"), line=2)
    assert "nothing else" in refused(memory, signed('{"key":"a","value":"b"} x'), line=2)
    assert "nothing else" in refused(memory, signed('{"key":"a","value":"b"}\r'), line=2)
    assert "stands twice" in refused(memory, b"".join([*good[:2], good[1]]), line=3)
    assert "not in order" in refused(memory, b"".join([good[0], good[2], good[1]]), line=3)
    assert "not in order" in refused(
        memory,
        signed({"namespace": ["b"], "key": "a", "value": ""}, {"namespace": ["a"], "key": "b", "value": ""}),
        line=3,
    )
    assert "had 4 entries, and there are 3" in refused(
        memory, signed(*(g.strip() for g in good[1:]), entries=4), line=5
    )
    assert "3.5" in refused(memory, signed(*(g.strip() for g in good[1:]), entries=3.5), line=5)
    assert "checksum" in refused(memory, signed(*(g.strip() for g in good[1:])).replace(b'"hello"', b'"hellO"'), line=5)
    whole = signed(*(g.strip() for g in good[1:]))
    assert "more after" in refused(memory, whole + b"\n", line=6)
    assert "more after" in refused(memory, whole + whole, line=6)
    assert "last line" in refused(memory, signed({"end": False}), line=2)
    assert "last line" in refused(memory, signed({"end": True, "entries": 0}), line=2)


ENTRY = {"key": "a", "value": "b"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"value": "b"}, "key"),
        ({**ENTRY, "key": 1}, "key"),
        ({**ENTRY, "key": ""}, "key is empty"),
        ({**ENTRY, "key": "a\n"}, "control character"),
        ({**ENTRY, "key": "\ud800"}, "lone surrogate"),
        ({**ENTRY, "key": "x" * 2049}, "2,049 bytes"),
        ({"key": "a"}, "value"),
        ({**ENTRY, "value": None}, "value"),
        ({**ENTRY, "value": 1}, "value"),
        ({**ENTRY, "value": "\ud800"}, "lone surrogate"),
        ({**ENTRY, "base64": ""}, "either"),
        ({"key": "a", "base64": "A"}, "padded|padding|multiple"),
        ({"key": "a", "base64": "A A="}, "base64|alphabet|data"),
        ({"key": "a", "base64": "é"}, "ASCII"),
        ({"key": "a", "base64": 1}, "value"),
        ({**ENTRY, "expires_at": None}, "expires_at"),
        ({**ENTRY, "expires_at": "1"}, "expires_at"),
        ({**ENTRY, "expires_at": True}, "expires_at"),
        ({**ENTRY, "expires_at": 1.0}, "expires_at"),
        ({**ENTRY, "expires_at": 0}, "expires_at"),
        ({**ENTRY, "expires_at": 2**53 + 1}, "expires_at"),
        ({**ENTRY, "namespace": []}, "namespace"),
        ({**ENTRY, "namespace": "a"}, "namespace"),
        ({**ENTRY, "namespace": None}, "namespace"),
        ({**ENTRY, "namespace": [1]}, "namespace"),
        ({**ENTRY, "namespace": [""]}, "namespace is empty"),
        ({**ENTRY, "namespace": ["x" * 256]}, "256 bytes"),
        ({**ENTRY, "namespace": ["x" * 250] * 5}, "path"),
        ({**ENTRY, "ttl": 1}, "unknown fields: 'ttl'"),
    ],
)
def test_a_line_that_no_store_could_hold_is_refused(memory: kv.Store, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(kv.CorruptData, match=message):
        load(memory, signed({"key": "A", "value": ""}, entry))
    assert "line 3: " in refused(memory, signed({"key": "A", "value": ""}, entry), line=3)


def test_a_number_past_what_python_parses_is_refused(memory: kv.Store) -> None:
    assert "not JSON" in refused(memory, signed('{"key":"a","value":"b","expires_at":' + "9" * 5_000 + "}"), line=2)


@pytest.mark.parametrize(
    "more",
    [
        *(
            '"x":' + "[" * 100_000 + "]" * 100_000,
            '"x":' + '{"a":' * 100_000 + "1" + "}" * 100_000,
            '"x":' + "9" * 10**6,
        ),
        *('"expires_at":1e999999999', '"expires_at":Infinity', '"expires_at":1e5', '"expires_at":-0'),
        *(",".join(f'"f{n}":1' for n in range(50_000)), '"' + "f" * 10**6 + '":1', '"\\ud800":1'),
        *(
            '"namespace":[' + '"a",' * 50_000 + '"a"]',
            '"namespace":["' + "n" * 10**6 + '"]',
            '"key":"' + "k" * 10**6 + '"',
        ),
        '"key":"' + "k" * 2_048 + '","namespace":["' + '","'.join(["n" * 255] * 4) + '"],"x":1',
    ],
    ids=lambda more: f"{more[:20]}, {len(more):,} characters",
)
def test_a_line_made_to_hurt_is_refused_in_few_words(memory: kv.Store, more: str) -> None:
    said = refused(memory, signed('{"key":"a","value":"b",' + more + "}"), line=2)
    assert len(said) < 600


def test_an_entry_that_is_not_in_order_is_named_in_few_words(memory: kv.Store) -> None:
    said = refused(memory, signed({"key": "b", "value": ""}, {"key": "a" * 2_048, "value": ""}), line=3)
    assert "not in order" in said
    assert len(said) < 300


def test_a_path_that_gets_too_long_below_the_store_changes_nothing(memory: kv.Store) -> None:
    deep = at(memory, ["x" * 250] * 3)
    data = signed({"key": "a", "value": "b"}, {"namespace": ["y" * 250, "z" * 100], "key": "a", "value": "b"})
    with pytest.raises(kv.InvalidKey):
        load(deep, data)
    assert contents(memory) == {}


def test_only_stores_that_can_dump_are_moved() -> None:
    with pytest.raises(TypeError, match="BaseStore"):
        transfer.export(object(), io.BytesIO())  # type: ignore[arg-type]
