"""Import, export to a file, copy: what is written, in which order, and what an interruption leaves."""

from __future__ import annotations

import fcntl
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from exports import LATER, MANY, SMALL, TREE, contents, exported, fill, load, signed
from tiny import TinyStore

import kv
from kv import transfer
from kv.expiry import wall_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from kv.store import Record


# how it is imported


def test_an_import_merges(make: Callable[[], kv.Store]) -> None:
    store = fill(make(), {(): {"greeting": (b"old", LATER), "other": (b"stays", None)}, ("x",): {"k": (b"", None)}})
    done = load(store, exported(fill(make(), SMALL)))
    assert contents(store) == {
        **SMALL,
        (): {**SMALL[()], "other": (b"stays", None)},
        ("x",): {"k": (b"", None)},
    }
    assert done == (3, 3, 0, 0, 0)


def test_an_import_that_replaces_leaves_what_the_file_holds(make: Callable[[], kv.Store]) -> None:
    store, data = make(), exported(fill(make(), SMALL))
    outside = fill(store.namespace("outside"), SMALL)
    inside = fill(store.namespace("inside"), TREE)
    fill(inside, {(): {f"{n}": (b"", None) for n in range(2_000)}, ("z", "z"): {"k": (b"", None)}})
    had = sum(map(len, contents(inside).values()))
    done = load(inside, data, replace=True)
    assert contents(inside) == SMALL
    assert contents(outside) == SMALL
    assert done == (3, 3, 0, 0, had)


def test_what_has_expired_is_skipped(make: Callable[[], kv.Store]) -> None:
    data = signed(
        {"key": "dead", "value": "1", "expires_at": 1},
        {"key": "dying", "value": "2", "expires_at": wall_ms() - 1},
        {"key": "living", "value": "3", "expires_at": LATER},
    )
    store = fill(make(), {(): {"dead": (b"old", None)}})
    assert load(store, data) == (3, 1, 0, 2, 0)
    assert contents(store)[()] == {"dead": (b"old", None), "living": (b"3", LATER)}
    assert load(store, data, replace=True) == (3, 1, 0, 2, 1)
    assert contents(store)[()] == {"living": (b"3", LATER)}


class Recorder(kv.MemoryStore):
    """A store that tells what is loaded, and can break down."""

    loaded: list[str]
    breaks_at: str

    def __init__(self, breaks_at: str = "") -> None:
        super().__init__()
        self.loaded = []
        self.breaks_at = breaks_at

    def _load(self, records: Iterable[Record]) -> None:
        records = list(records)
        self.loaded += [record.key for record in records]
        if self.breaks_at == "load" and len(self.loaded) > 1_000:
            raise kv.Unavailable("gone")
        super()._load(records)

    def _dump(self, after: str | None, limit: int) -> list[Record]:
        if self.breaks_at == "dump" and after and after > "00700":
            raise kv.Unavailable("gone")
        return super()._dump(after, limit)

    def delete_many(self, keys: Iterable[str]) -> int:
        if self.breaks_at == "delete":
            raise kv.Unavailable("gone")
        return super().delete_many(keys)


def test_a_resumed_import_writes_only_what_differs(memory: kv.Store) -> None:
    data = exported(fill(memory, MANY))
    store = Recorder()
    with store:
        fill(store, MANY)
        store.set("00001", b"changed")
        store.set("00002", b"2", ttl=60)
        store.delete("01999")
        store.namespace("n").persist("00004")
        store.namespace("n").set("00005", b"one more, in between")
        store.loaded.clear()
        done = load(store, data, resume=True)
        assert store.loaded == ["00001", "00002", "01999", "00004"]
        assert done == (3_000, 4, 2_996, 0, 0)
        assert load(store, data, resume=True, replace=True) == (3_000, 0, 3_000, 0, 1)
        assert contents(store) == MANY


@pytest.mark.parametrize("resume", [False, True])
def test_an_import_that_broke_is_completed_by_another(memory: kv.Store, resume: bool) -> None:
    data = exported(fill(memory, MANY))
    with Recorder("load") as store:
        with pytest.raises(kv.Unavailable):
            load(store, data, replace=True, resume=resume)
        assert contents(store)
        store.breaks_at = ""
        load(store, data, replace=True, resume=resume)
        assert contents(store) == MANY


def test_a_replacing_import_deletes_last(memory: kv.Store) -> None:
    data = exported(fill(memory, MANY))
    with Recorder("delete") as store:
        store.set("old", b"1")
        with pytest.raises(kv.Unavailable):
            load(store, data, replace=True)

        assert store.get("old") == b"1"
        assert {path: {k: v for k, v in e.items() if k != "old"} for path, e in contents(store).items()} == MANY


def test_a_pipe_is_read_to_its_end_before_anything_is_stored(memory: kv.Store, make: Callable[[], kv.Store]) -> None:
    data = exported(fill(memory, MANY))
    for sent, right in ((data, True), (data[:-5], False)):
        store = make()
        reading, writing = os.pipe()
        with open(reading, "rb") as pipe, open(writing, "wb") as sink:

            def send(sink: Any = sink, sent: bytes = sent) -> None:
                sink.write(sent)
                sink.close()

            thread = threading.Thread(target=send)
            thread.start()
            if right:
                transfer.import_file(store, pipe)
            else:
                with pytest.raises(kv.CorruptData, match=r"standard input, line 3,002"):
                    transfer.import_file(store, pipe, name="standard input")
            thread.join()
        assert contents(store) == (MANY if right else {})


# export to a file


def test_a_file_of_the_final_name_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("an older export")
    path.chmod(0o600)
    with Recorder("dump") as store:
        fill(store, MANY)
        with pytest.raises(kv.Unavailable):
            transfer.export_file(store, path)
        assert path.read_text() == "an older export"
        store.breaks_at = ""
        whole = exported(store)
        part = tmp_path / "out.jsonl.part"
        begun = part.read_bytes()
        assert whole.startswith(begun)
        done = transfer.export_file(store, path, resume=True)
        assert path.read_bytes() == whole
        assert path.stat().st_mode & 0o777 == 0o600
        assert not part.exists()
        assert done.entries == 3_000
        assert done.resumed == begun.count(b"\n") - 1 > 0


def test_an_export_resumes_from_a_part_cut_anywhere(tmp_path: Path, memory: kv.Store) -> None:
    whole = exported(fill(memory, SMALL))
    path, part = tmp_path / "out", tmp_path / "out.part"
    for length in range(len(whole) + 1):
        part.write_bytes(whole[:length])
        transfer.export_file(memory, path, resume=True)
        assert path.read_bytes() == whole
        assert not part.exists()


def test_an_export_resumes_after_a_torn_block(tmp_path: Path, memory: kv.Store) -> None:
    # what a power loss may leave: blocks that were never written
    whole = exported(fill(memory, MANY))
    (tmp_path / "out.part").write_bytes(whole[:9_000] + bytes(4_096))
    transfer.export_file(memory, tmp_path / "out", resume=True)
    assert (tmp_path / "out").read_bytes() == whole


def test_a_resumed_export_has_what_came_in_between_after_its_place(tmp_path: Path, memory: kv.Store) -> None:
    whole = exported(fill(memory, SMALL))
    (tmp_path / "out.part").write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    memory.set("zebra", b"1")
    memory.namespace("tenant0").set("k", b"2")
    transfer.export_file(memory, tmp_path / "out", resume=True)
    assert (tmp_path / "out").read_bytes() == exported(memory)


def test_without_resume_a_part_is_begun_anew(tmp_path: Path, memory: kv.Store) -> None:
    (tmp_path / "out.part").write_bytes(b"something long that was there before" * 1_000)
    transfer.export_file(fill(memory, SMALL), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == exported(memory)


def test_a_part_that_is_no_export_is_left_alone(tmp_path: Path, memory: kv.Store) -> None:
    part = tmp_path / "out.part"
    for text in (b"mine\n", b'{"format":"anykv","version":2}\n'):
        part.write_bytes(text)
        with pytest.raises(kv.CorruptData, match=r"out\.part, line 1"):
            transfer.export_file(memory, tmp_path / "out", resume=True)
        assert part.read_bytes() == text


def test_two_exports_do_not_write_one_file(tmp_path: Path, memory: kv.Store) -> None:
    part = tmp_path / "out.part"
    with open(part, "wb") as other:
        other.write(b"begun")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another export"):
            transfer.export_file(memory, tmp_path / "out")
        assert part.read_bytes() == b"begun"
    transfer.export_file(memory, tmp_path / "out")


def test_many_exports_at_once_leave_a_whole_file(tmp_path: Path, memory: kv.Store) -> None:
    whole = exported(fill(memory, MANY))
    done: list[int] = []

    def work() -> None:
        for _ in range(10):
            try:
                transfer.export_file(memory, tmp_path / "out")
                done.append(1)
            except BlockingIOError:
                done.append(0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 40
    assert sum(done) > 0
    assert (tmp_path / "out").read_bytes() == whole
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "out.part"] == ["out"]


def test_a_device_is_not_replaced_by_a_file(memory: kv.Store, tmp_path: Path) -> None:
    for path in ("/dev/null", tmp_path):
        with pytest.raises(kv.ConfigError, match="not a regular file"):
            transfer.export_file(memory, path)
    assert not os.path.isfile("/dev/null")
    with pytest.raises(FileNotFoundError):
        transfer.export_file(memory, tmp_path / "missing" / "out")


def test_a_link_is_followed(tmp_path: Path, memory: kv.Store) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere" / "out")
    transfer.export_file(fill(memory, SMALL), link)
    assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "out").read_bytes() == exported(memory)


# from store to store


def test_copy_and_compare(make: Callable[[], kv.Store], memory: kv.Store) -> None:
    source, target = (
        fill(make(), {**MANY, **SMALL}),
        fill(memory, {(): {"mine": (b"1", None)}, ("z",): {"k": (b"", None)}}),
    )
    missing = list(transfer.differences(source, target))
    assert len(missing) == 1_003
    assert all(line.endswith("is missing") for line in missing)
    done = transfer.copy(source, target)
    assert done.stored == 1_003
    assert list(transfer.differences(source, target)) == []
    assert list(transfer.differences(source, target, extra=True)) == [
        "'mine' is only in the target",
        "'k' in namespace 'z' is only in the target",
    ]
    target.set("greeting", b"changed")
    target.expire("logo", 10)
    target.namespace("n").delete("00004")
    assert list(transfer.differences(source, target)) == [
        "'greeting' has another value",
        "'logo' has another deadline",
        "'00004' in namespace 'n' is missing",
    ]
    done = transfer.copy(source, target, resume=True, replace=True)
    assert done == (1_003, 3, 1_000, 0, 2)
    assert contents(target) == contents(source)
    assert list(transfer.differences(source, target, extra=True)) == []


def test_copy_goes_between_namespaces_of_one_store(make: Callable[[], kv.Store]) -> None:
    store = make()
    fill(store.namespace("a"), TREE)
    transfer.copy(store.namespace("a"), store.namespace("b"))
    assert contents(store.namespace("b")) == TREE
    assert store.namespaces() == ["a", "b"]


def test_a_backend_that_writes_nothing_for_it_is_moved_too(memory: kv.Store) -> None:
    with TinyStore() as store:
        load(store, exported(fill(memory, TREE)))
        assert list(transfer.differences(memory, store, extra=True)) == []
        store.set("one more", b"1", ttl=60)
        assert transfer.copy(store, memory, resume=True).stored == 1
        assert list(transfer.differences(store, memory, extra=True)) == []
        store.delete("one more")
        assert transfer.copy(store, memory, resume=True, replace=True) == (21, 0, 21, 0, 1)
    assert contents(memory) == TREE
