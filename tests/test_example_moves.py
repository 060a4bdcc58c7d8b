"""`examples/move_in.py`: what diskcache, sqlitedict and shelve themselves wrote, moved without them."""

from __future__ import annotations

import json
import math
import os
import pickle
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import diskcache
import pytest
from oldfiles import CHANGED, FLAT, NESTED, SECRET, every, exactly, named, values
from scripts import example
from sqlitedict import SqliteDict
from waiting import wait_for

import kv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new.db?durability=normal"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "old"


# what is carried


@every
def test_what_json_holds_is_carried_exactly(
    kind: str, make: Callable[[Path, dict[str, Any]], None], old: Path, url: str
) -> None:
    make(old, FLAT | NESTED)
    said = example("move_in.py", kind, old, url, "--unpickle")
    assert said == (0, "", "carried 16, expired 0, left out 0\n")
    assert exactly(values(url), FLAT | NESTED)


@every
def test_what_json_would_change_is_left_out_by_name_and_nothing_shows_a_value(
    kind: str, make: Callable[[Path, dict[str, Any]], None], old: Path, url: str
) -> None:
    make(old, {"good": [1]} | CHANGED)
    said = example("move_in.py", kind, old, url, "--unpickle")
    assert said.code == 1
    assert named(said.out) == set(CHANGED)
    assert "'tuple': JSON would not give a tuple back\n" in said.out
    assert "Order'" in said.out
    assert said.err.startswith("carried 1, expired 0, left out 9\n")
    assert SECRET not in said.out + said.err
    assert values(url) == {"good": [1]}


@every
def test_nothing_is_unpickled_unless_told_to(
    kind: str, make: Callable[[Path, dict[str, Any]], None], old: Path, url: str
) -> None:
    make(old, FLAT | NESTED)
    said = example("move_in.py", kind, old, url)
    assert said.code == 1
    carried = FLAT if kind == "diskcache" else {}
    assert exactly(values(url), carried)
    assert named(said.out) == {repr(key)[1:-1] for key in (FLAT | NESTED) if key not in carried}
    assert f"  {16 - len(carried)}: it is pickled; see --unpickle\n" in said.err


class Trap:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


@every
@pytest.mark.parametrize("flags", [(), ("--unpickle",), ("--unpickle", "--as", "raw")])
def test_no_code_that_a_pickle_names_is_ever_run(
    kind: str,
    make: Callable[[Path, dict[str, Any]], None],
    flags: tuple[str, ...],
    old: Path,
    url: str,
    tmp_path: Path,
) -> None:
    sprung = tmp_path / "sprung"
    make(old, {"trap": Trap(sprung), "inner": [{"a": Trap(sprung)}]})
    said = example("move_in.py", kind, old, url, *flags)
    assert not sprung.exists()
    assert said.code == 1
    assert named(said.out) == {"trap", "inner"}
    assert values(url) == {}


def test_a_pickled_key_is_not_unpickled_either(old: Path, url: str, tmp_path: Path) -> None:
    with diskcache.Cache(old) as cache:
        cache["k"] = "v"
        with sqlite3.connect(old / "cache.db") as db:
            trap = pickle.dumps(Trap(tmp_path / "sprung"))
            db.execute("INSERT INTO Cache (key, raw, mode, value) VALUES (?, 0, 1, 'v')", (trap,))
    assert example("move_in.py", "diskcache", old, url, "--unpickle").code == 1
    assert not (tmp_path / "sprung").exists()
    assert values(url) == {"k": "v"}


@every
def test_as_raw_bytes_and_text_are_carried_as_they_are(
    kind: str, make: Callable[[Path, dict[str, Any]], None], old: Path, url: str
) -> None:
    make(old, {"b": b"\0\xff", "t": "Zoë", "i": 1, "l": [SECRET]})
    said = example("move_in.py", kind, old, url, "--as", "raw", "--unpickle")
    assert said[:2] == (1, said.out)
    assert named(said.out) == {"i", "l"}
    assert SECRET not in said.out + said.err
    with kv.open(url) as store:
        assert dict(store.scan()) == {"b": b"\0\xff", "t": "Zoë".encode()}


# diskcache


def test_deadlines_are_kept_and_a_second_run_changes_nothing(shared: str, old: Path) -> None:
    with diskcache.FanoutCache(old, shards=2) as cache:
        for n in range(40):
            cache[f"k{n}"] = n
        cache.set("an hour", "x", expire=3600)
        cache.set("never", "x", expire=math.inf)
        cache.set("gone", "x", expire=0.001)
        cache.set("too long", "x", expire=1e300)
        wait_for(lambda: "gone" not in cache)
        deadline: float = cache.get("an hour", expire_time=True)[1]
    expected = {f"k{n}": n for n in range(40)} | {"an hour": "x", "never": "x"}
    for _ in range(2):
        said = example("move_in.py", "diskcache", old, shared)
        assert said.code == 1
        assert said.out.startswith("'too long': ")
        assert said.err.startswith("carried 42, expired 1, left out 1\n  1: InvalidTTL\n")
        assert exactly(values(shared), expected)
        with kv.open(shared) as store:
            begin = time.time()
            ttl = store.ttl("an hour")
            assert ttl is not None
            assert begin + ttl <= deadline + 1 <= time.time() + ttl + 2  # clocks of two machines, and roundings
            assert store.ttl("never") == store.ttl("k1") == math.inf
            assert store.increment("k7") == 8  # it is a number to a store
            store.set("k7", b"7")


def test_keys_that_are_no_str_are_carried_only_where_they_cannot_be_mistaken(old: Path, url: str) -> None:
    with diskcache.FanoutCache(old, shards=4) as cache:
        for fit in (1, -2, "-2", 3, "3 ", "x" * 2_048):
            cache[fit] = repr(fit)
        for unfit in (b"4", 5.5, ("t", SECRET), None, "", "a\nb", "x" * 2_049):
            cache[unfit] = SECRET
    said = example("move_in.py", "diskcache", old, url)
    assert said.code == 1
    assert values(url) == {"1": "1", "3": "3", "3 ": "'3 '", "-2": "'-2'", "x" * 2_048: repr("x" * 2_048)}
    reasons = sorted(line.partition(": ")[2].partition(",")[0] for line in said.out.splitlines())
    assert len(reasons) == 8
    assert reasons[:5] == [
        "a str key reads like its int key",
        "its key is neither str",
        "its key is neither str",
        "its key is of type bytes",
        "its key is of type float",
    ]
    assert SECRET not in said.out + said.err


def test_what_has_no_place_in_a_store_is_said(old: Path, url: str) -> None:
    with diskcache.FanoutCache(old, shards=1) as cache:
        cache.set("k", "v", tag="a tag")
        cache["nan"] = math.nan  # SQLite makes NULL of it, and diskcache None
        cache.cache("inner")["k"] = "other"
        cache.cache("inner").close()
    said = example("move_in.py", "diskcache", old, url)
    assert said[:2] == (1, "'nan': SQLite holds no NaN\n")
    assert "note: 1 had a tag" in said.err
    assert f"{old}/cache/inner is a cache of its own" in said.err
    assert values(url) == {"k": "v"}
    assert example("move_in.py", "diskcache", old / "cache" / "inner", f"{url}&namespace=inner").code == 0
    assert values(f"{url}&namespace=inner") == {"k": "other"}


def test_what_is_damaged_is_left_out_and_the_rest_carried(old: Path, url: str) -> None:
    (old.parent / "outside.val").write_text(SECRET)
    with diskcache.Cache(old) as cache:
        for key in ("lost", "elsewhere", "strange", "half", "garbage", "no text", "good"):
            cache[key] = [SECRET] if key in ("half", "garbage") else SECRET * 10_000
    with closing(sqlite3.connect(old / "cache.db")) as db:
        ((lost,),) = db.execute("SELECT filename FROM Cache WHERE key = 'lost'")
        (old / lost).unlink()
        ((text,),) = db.execute("SELECT filename FROM Cache WHERE key = 'no text'")
        (old / text).write_bytes(b"\xff")
        db.execute("UPDATE Cache SET filename = '../outside.val' WHERE key = 'elsewhere'")
        db.execute("UPDATE Cache SET mode = 9 WHERE key = 'strange'")
        db.execute("UPDATE Cache SET value = substr(value, 1, 8) WHERE key = 'half'")
        db.execute("UPDATE Cache SET value = x'ff00' WHERE key = 'garbage'")
        db.execute("INSERT INTO Cache (key, raw, mode, value) VALUES (CAST(x'61ff' AS TEXT), 1, 1, 'v')")
        db.commit()
    said = example("move_in.py", "diskcache", old, url, "--unpickle", "--as", "raw")
    assert said.code == 1
    assert named(said.out) == {"lost", "elsewhere", "strange", "half", "garbage", "no text", "a\\udcff"}
    assert SECRET not in said.out + said.err
    with kv.open(url) as store:
        assert dict(store.scan()) == {"good": SECRET.encode() * 10_000}


# sqlitedict


def test_of_several_tables_one_is_named(old: Path, url: str) -> None:
    for table in ("unnamed", 'od"d; --', "json"):
        with SqliteDict(
            str(old), table, **({"encode": json.dumps, "decode": json.loads} if table == "json" else {})
        ) as cache:
            cache["k"] = [table]
            cache.commit()
    said = example("move_in.py", "sqlitedict", old, url, "--unpickle")
    assert said.code == 2
    assert "--table" in said.err
    assert "'json'" in said.err
    assert example("move_in.py", "sqlitedict", old, url, "--unpickle", "--table", 'od"d; --').code == 0
    assert values(url) == {"k": ['od"d; --']}
    assert example("move_in.py", "sqlitedict", old, url, "--table", "json", "--as", "raw").code == 0
    assert values(url) == {"k": ["json"]}  # what was JSON before is what kv.typed reads
