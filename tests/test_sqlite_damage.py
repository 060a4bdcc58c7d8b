"""A SQLite file or its log that a crash has cut off, or a disk has changed: an older state, or an error of ours.

SQLite has checksums in its log, and none in the file: what has changed inside a value there is the one thing that
nothing but the value itself can tell, as one that is encrypted does; all else is named by `verify`.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import pytest
from crashes import rounds, seeded
from sqlitefiles import raw

import kv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    State = dict[str, tuple[bytes, int | None]]

KEYS = [f"key {n}" for n in range(12)]
UNIT = 100_000
"""Seconds; deadlines are multiples of it."""
HEADER, FRAME = 32, 24 + 4096
"""Bytes of the log: before its first page, and of each with what stands before it."""


def write(store: kv.Store, n: int, chance: random.Random) -> None:
    """One transaction."""
    one, two, three = keys = chance.sample(KEYS, 3)
    value = b"%d: " % n + bytes(chance.choice([0, 10, 100, 9_000]))
    ttl = chance.choice([None, UNIT, 2 * UNIT])
    writes: list[Callable[[], object]] = [
        lambda: store.set_many(dict.fromkeys(keys, value), ttl=ttl),
        lambda: store.set(one, value, ttl=ttl),
        lambda: store.update(two, lambda old: value + (old or b"")[:20]),
        lambda: store.update_many(keys, lambda _: {one: value, three: value}, ttl_if_new=ttl),
        lambda: store.increment("n"),
        lambda: store.delete_many([*keys, "n"]),  # which the transaction before has written
    ]
    writes[n % len(writes)]()


def state(store: kv.Store) -> State:
    """All that there is. Each way to ask must tell the same."""
    keys = store.keys()
    found = store.get_many(keys)
    assert [*found] == keys
    assert [*store.scan()] == [*found.items()]
    assert store.count() == store.stats().keys == len(keys)
    has: State = {}
    for key, value in found.items():
        left = store.ttl(key)
        assert store.get(key) == value
        assert left is not None
        has[key] = (value, None if left == math.inf else math.ceil(left / UNIT))
    return has


class Files(NamedTuple):
    """A store, when nothing has been carried from its log into its file.

    Attributes:
        states: what there was after each transaction in the log.
    """

    file: bytes
    log: bytes
    states: list[State]

    def commits(self, length: int) -> int:
        """How many transactions are whole in so much of the log. Behind them lie those of the time before."""
        frames = [self.log[at : at + FRAME] for at in range(HEADER, length - FRAME + 1, FRAME)]
        return sum(frame[8:16] == self.log[16:24] and any(frame[4:8]) for frame in frames)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    path, chance = tmp_path_factory.mktemp("log") / "app.db", random.Random(0)
    with kv.SQLiteStore(path, durability="normal") as store:
        for n in range(40):
            write(store, n, chance)
        raw(path, "PRAGMA wal_checkpoint")  # the log begins anew, over what is in it
        states = [state(store)]
        for n in range(30):
            write(store, n, chance)
            states.append(state(store))
        made = Files(path.read_bytes(), path.with_name("app.db-wal").read_bytes(), states)
    assert made.commits(len(made.log)) == len(states) - 1
    assert len({repr(state) for state in states}) > 20
    return made


def put(path: Path, file: bytes, log: bytes = b"") -> None:
    for old in path.parent.iterdir():
        old.unlink()
    path.write_bytes(file)
    if log:
        path.with_name(f"{path.name}-wal").write_bytes(log)


def flipped(whole: bytes, at: int, chance: random.Random) -> bytes:
    """With one bit of this byte changed."""
    return whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]


def places(length: int, some: int, chance: random.Random) -> Iterator[int]:
    """So many by chance, or all, in any order, as far as there is time. Prints how many."""
    done = 0
    for done, at in zip(rounds(some), chance.sample(range(length), length), strict=False):  # noqa: B007
        yield at
    print(done, "of", length)


def test_a_log_that_ends_anywhere_gives_what_was_written_whole_before(quick_path: Path, files: Files) -> None:
    edges = [HEADER + FRAME * n + near for n in range(len(files.log) // FRAME) for near in (-1, 0, 1, 24)]
    with seeded() as (_, chance):
        lengths = chain([0, 1, *chance.sample(edges, 60)], places(len(files.log) + 1, 60, chance))
        for length in lengths:
            put(quick_path, files.file, files.log[:length])
            with kv.SQLiteStore(quick_path, durability="normal") as store:
                assert state(store) == files.states[files.commits(length)], length
                assert store.verify() == []


def test_a_log_in_which_a_bit_has_changed_gives_what_was_written_before(quick_path: Path, files: Files) -> None:
    with seeded() as (_, chance):
        for at in chain(range(HEADER), places(len(files.log), 120, chance)):
            put(quick_path, files.file, flipped(files.log, at, chance))
            whole = HEADER + (at - HEADER) // FRAME * FRAME if at >= HEADER else 0
            with kv.SQLiteStore(quick_path, durability="normal") as store:
                assert state(store) == files.states[files.commits(whole)], at
                assert store.verify() == []


@pytest.mark.parametrize(
    ("change", "reads"),
    [
        ("value = 'text'", ["get", "get_many", "scan", "update", "_look"]),
        ("value = 7", ["get", "get_many", "scan", "update", "_look"]),
        ("expires_at = x'00'", ["get", "get_many", "scan", "update", "size", "ttl", "exists"]),
        ("key = CAST(x'ff' AS TEXT)", ["keys", "scan"]),
    ],
)
def test_what_nobody_has_written_is_damage(path: Path, change: str, reads: list[str]) -> None:
    calls: dict[str, Callable[[kv.Store], object]] = {
        "get": lambda store: store.get("k"),
        "get_many": lambda store: store.get_many(["k", "l"]),
        "scan": lambda store: [*store.scan()],
        "keys": lambda store: store.keys(),
        "update": lambda store: store.update("k", lambda _: b"new"),
        "size": lambda store: store.size("k"),
        "ttl": lambda store: store.ttl("k"),
        "exists": lambda store: store.exists("k"),
        "_look": lambda store: store._look(["k"]),  # type: ignore[attr-defined]
    }
    with kv.SQLiteStore(path) as store:
        store.set("k", b"v", ttl=UNIT)
        raw(path, f"UPDATE kv_entries SET {change}")
        for read in reads:
            with pytest.raises(kv.CorruptData, match="damaged"):
                calls[read](store)
        assert store.verify()


def test_a_schema_that_is_no_text_is_damage(path: Path) -> None:
    with kv.SQLiteStore(path) as store:
        store.set("k", b"v")
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE\xdfTABLE"))
    with pytest.raises(kv.CorruptData, match=r"app\.db is damaged"):
        kv.SQLiteStore(path)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (b"\x0d\x17\x01key 9", b"\x0d\x17\x01aey 9", "not in order"),
        (b"\x0d\x17\x01key 5", b"\x0d\x01\x01key 5", "no text"),  # its type: a number
    ],
)
def test_an_index_that_is_damaged_is_damage_and_not_listed_without_end(
    path: Path, right: bytes, wrong: bytes, said: str
) -> None:
    with kv.SQLiteStore(path) as store:
        store.set_many(dict.fromkeys(KEYS, b"v"))
    whole = path.read_bytes()
    assert whole.count(right) == 1
    path.write_bytes(whole.replace(right, wrong))
    with kv.SQLiteStore(path) as store:
        assert store.verify()
        for reads in (
            lambda: [*islice(store.scan(), 100)],
            lambda: [*islice(store._records(None), 100)],
            lambda: store.keys(after="aey 9"),
            lambda: store.keys(after="aey 9", match="*"),
        ):
            with pytest.raises(kv.CorruptData, match=said):
                reads()


def differs_by_one_byte(found: State, right: State) -> bool:
    """Inside one value, and else in nothing."""
    wrong = [key for key in right if found.get(key) != right[key]]
    if found.keys() != right.keys() or len(wrong) != 1:
        return False
    (value, until), (other, deadline) = found[wrong[0]], right[wrong[0]]
    return until == deadline and len(value) == len(other) and sum(map(int.__ne__, value, other)) == 1


@pytest.mark.parametrize("options", [{}, {"encryption_keys": "A" * 43 + "="}], ids=["plain", "encrypted"])
def test_what_a_bit_that_has_changed_makes_of_a_file(quick_path: Path, options: dict[str, str]) -> None:
    def opened() -> kv.Store:
        return kv.open(f"sqlite:///{quick_path}", durability="normal", **options)

    with opened() as store:
        for n in range(60):
            value = b"%d" % n * (n % 30) if n else bytes(9_000)
            store.set(f"key {n}", value, ttl=(None, UNIT, 2 * UNIT)[n % 3])
        store.delete_many(f"key {n}" for n in range(1, 10))
        right = state(store)
    whole, seen = quick_path.read_bytes(), Counter[str]()

    def judge() -> str:
        found: State | None = None
        try:
            with opened() as store:
                wrong = store.verify()
                with suppress(AssertionError):  # it may not tell the same in each way to ask
                    found = state(store)
        except kv.KVError as e:
            return type(e).__name__
        if found == right:
            return "harmless"
        if wrong:
            return "named by verify"
        assert found
        assert differs_by_one_byte(found, right)
        return "a changed value, unnoticed"

    with seeded() as (_, chance):
        for at in places(len(whole), 150, chance):
            put(quick_path, flipped(whole, at, chance))
            try:
                seen[judge()] += 1
            except BaseException as e:
                e.add_note(f"byte {at} of the file")
                raise
    print(dict(seen))
    assert not options or "a changed value, unnoticed" not in seen
    assert seen["CorruptData"]
