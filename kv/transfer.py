"""Move the entries of a store: out to a file, in from one, or straight into another store.

An export is a text file of JSON lines, UTF-8, that keeps bytes, deadlines and namespaces:

    {"format":"anykv","version":1}
    {"key":"greeting","value":"hello"}
    {"key":"logo","base64":"iVBORw0KGgo=","expires_at":1767225600000}
    {"namespace":["tenant1","cache"],"key":"a","value":"1"}
    {"end":true,"entries":3,"sha256":"..."}

A value is `value` where it is UTF-8 and `base64` otherwise; `expires_at` is in milliseconds since 1970, left out where
the entry never expires; `namespace` is the path below the exported store, left out at its root. The entries stand in
order, by namespace and then by key. `sha256` is that of all bytes before the last line, so a cut or changed file is
noticed before anything of it is stored.

A store in use can be moved: it is no snapshot, but every entry that lives all along is moved. Memory does not grow
with the number of entries (where an engine has no order, as Redis, all keys of one namespace are gathered, and no
values). `migrate` moves an application to another store while it runs.

The functions that end in `_async` are the same for event loops, and each store may be of either colour. They work in a
thread, where a sync store, a file and `progress` are then used too. Cancelled, they end at the next page, and leave
what an interruption there leaves.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import IO, TYPE_CHECKING, Final, NamedTuple, TypeAlias, cast

from .base import PAGE, TRAVEL_BYTES, BaseStore
from .errors import ConfigError, CorruptData
from .expiry import wall_ms
from .files import locked, sync_folder
from .lines import Path, Reader, Writer
from .lowered import Aside, Lowered, go_on
from .store import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .store import AsyncStore, Store

    AnyStore: TypeAlias = Store | AsyncStore

__all__ = [
    "Exported",
    "Moved",
    "Progress",
    "copy",
    "copy_async",
    "differences",
    "differences_async",
    "export",
    "export_async",
    "export_file",
    "export_file_async",
    "import_file",
    "import_file_async",
    "migrate",
    "migrate_async",
    "total",
    "total_async",
]

Page: TypeAlias = tuple[Path, list[Record]]
"""Some entries of one namespace."""

Progress: TypeAlias = Callable[[str, int, int | None], object]
"""Called now and then with what is being done, how many more entries (bytes, for `"checking"`) are, and how many there
are in all, if that is known."""

_FIRST_LINE_MAX: Final = 1_024  # what is longer is no export, and need not be read to its end
_SAME_MS: Final = 1_000
"""Deadlines that differ by no more are the same: some engines tell the time that is left, and not the deadline, so the
time that a page takes comes in."""


class Exported(NamedTuple):
    """What an export did."""

    entries: int
    """Entries in the file."""
    resumed: int
    """Of these, how many an earlier run had written."""


class Moved(NamedTuple):
    """What an import or a copy did."""

    entries: int
    """Entries in the file, or in the store that was copied."""
    stored: int
    """Entries written."""
    same: int
    """Entries that stood there already (only looked for when resuming)."""
    expired: int
    """Entries past their deadline, which are not stored."""
    deleted: int
    """Entries deleted because the source does not have them (only when replacing)."""


def live(records: Iterable[Record], now: int) -> list[Record]:
    """Give those whose deadline has not passed; `now` in milliseconds since 1970."""
    return [r for r in records if r.expires_at is None or r.expires_at > now]


def same(a: Record, b: Record) -> bool:
    """Give whether two entries of one key are alike, value and deadline."""
    if a.expires_at is None or b.expires_at is None:
        return a.value == b.value and a.expires_at is b.expires_at
    return a.value == b.value and abs(a.expires_at - b.expires_at) <= _SAME_MS


# reading a store


def _base(store: Store) -> BaseStore:
    if not isinstance(store, BaseStore | Lowered):
        hint = "; the functions that end in _async take those too" if hasattr(store, "aclose") else ""
        raise TypeError(f"kv.transfer moves stores that are a kv.base.BaseStore, and not {type(store).__name__}{hint}")
    return cast("BaseStore", store)


def _walk(store: BaseStore, start: Path = ()) -> Iterator[tuple[Path, BaseStore]]:
    """Give every namespace from `start` on, in order: a namespace before those inside it, the names sorted."""
    root = store._gather()
    todo: list[Path] = [()]
    while todo:
        go_on()
        path = todo.pop()
        here = _at(root, path)
        if path >= start:
            yield path, here
        elif start[: len(path)] != path:  # it and all below it come before `start`
            continue
        todo += [(*path, name) for name in reversed(here.namespaces())]


def _at(store: BaseStore, path: Path) -> BaseStore:
    for name in path:
        store = store.namespace(name)
    return store


def _pages(store: BaseStore, after: tuple[Path, str] = ((), "")) -> Iterator[Page]:
    """Give the entries of every namespace, in order, that come after the one named."""
    for path, here in _walk(store, after[0]):
        for page in here._records((after[1] or None) if path == after[0] else None):
            go_on()
            yield path, page


def total(store: Store) -> int:
    """Count the live entries of the store and of every namespace below it."""
    return sum(here.count() for _, here in _walk(_base(store)))


async def total_async(store: AnyStore) -> int:
    """See `total`."""
    with Aside() as aside:
        return await aside.run(total, aside.lower(store))


# export


def export(store: Store, out: IO[bytes], *, progress: Progress | None = None) -> Exported:
    """Write the entries of the store, and of every namespace below it, to a stream.

    Args:
        store: the store, or a namespace of one; the file holds paths relative to it.
        out: where to write; it is not closed.
        progress: see `Progress`.

    Raises:
        OSError: what writing raises.
    """
    writer = Writer()
    out.write(writer.begin())
    _export(_base(store), out, writer, ((), ""), progress)
    return Exported(writer.entries, 0)


async def export_async(store: AnyStore, out: IO[bytes], *, progress: Progress | None = None) -> Exported:
    """See `export`."""
    with Aside() as aside:
        return await aside.run(export, aside.lower(store), out, progress=progress)


def export_file(
    store: Store, path: str | os.PathLike[str], *, resume: bool = False, progress: Progress | None = None
) -> Exported:
    """Write the entries of the store, and of every namespace below it, to a file.

    They go to `path.part` first, which is synced and renamed at the end: a file of the final name is always whole, and
    an older one stays until then.

    Args:
        store: the store, or a namespace of one.
        path: the file; an existing one is replaced.
        resume: go on with the `path.part` that an interrupted export of the same store has left, if there is one.
        progress: see `Progress`.

    Raises:
        ConfigError: `path` is there and not a regular file; or resuming, and `path.part` is of another store.
        OSError: what writing raises; `BlockingIOError` where another export is writing the same file.
        CorruptData: resuming, and `path.part` is not an export.
    """
    base = _base(store)
    final = os.path.realpath(path)
    if os.path.exists(final) and not os.path.isfile(final):
        raise ConfigError(f"{os.fspath(path)} is not a regular file; to write to it use the standard output")
    part, origin = f"{final}.part", f"{final}.part.of"
    with locked(part, TRAVEL_BYTES) as file:
        writer = Writer()
        reader = Reader(f"{os.fspath(path)}.part")
        if resume and os.fstat(file.fileno()).st_size:
            _check_origin(base, origin, f"{os.fspath(path)}.part")
        resumed = _read_part(file, reader) if resume else False
        if resumed:
            writer.follow(reader)
        else:
            file.seek(0)
            file.truncate()  # first, so that never a part stands beside another's origin
            with open(origin, "w", encoding="utf-8", errors="surrogateescape") as of:
                of.write(repr(base))
            file.write(writer.begin())
        if not reader.ended:
            _export(base, file, writer, reader.last, progress)
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            shutil.copymode(final, part)  # what was private stays so
        if os.name == "nt":
            file.close()  # Windows renames no open file
        with suppress(FileNotFoundError):
            os.remove(origin)
        os.replace(part, final)  # under the lock, so that no other export has begun to write to it
    sync_folder(os.path.dirname(final))
    return Exported(writer.entries, reader.entries)


async def export_file_async(
    store: AnyStore, path: str | os.PathLike[str], *, resume: bool = False, progress: Progress | None = None
) -> Exported:
    """See `export_file`."""
    with Aside() as aside:
        return await aside.run(export_file, aside.lower(store), path, resume=resume, progress=progress)


def _export(
    store: BaseStore, out: IO[bytes], writer: Writer, after: tuple[Path, str], progress: Progress | None
) -> None:
    count = 0
    if progress:
        count = total(store)
        progress("exporting", writer.entries, count)
    for path, records in _pages(store, after):
        out.write(writer.page(path, records))
        if progress:
            progress("exporting", len(records), count)
    out.write(writer.end())


def _check_origin(store: BaseStore, origin: str, part: str) -> None:
    """See that a part is of this store, and not of another one, which would make one export of two halves."""
    with suppress(FileNotFoundError), open(origin, encoding="utf-8", errors="surrogateescape") as of:
        if (other := of.read()) != repr(store):
            raise ConfigError(f"{part} is of an export of {other}, not of {store!r}; nothing was exported")


def _read_part(file: IO[bytes], reader: Reader) -> bool:
    """Read what is whole, cut off the rest, and stand at the end. Gives whether there is anything to go on from."""
    good = 0
    for data in _lines(file):
        try:
            reader.line(data)
        except CorruptData:
            # The end may be torn. What stands there is in the store, or has been changed, so it is read anew.
            if not good and data.endswith(b"\n"):
                raise  # not ours: somebody may want it
            break
        good += len(data)
    file.seek(good)
    file.truncate()
    return good > 0


# import and copy


def import_file(
    store: Store,
    file: IO[bytes],
    *,
    name: str = "the export",
    replace: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Moved:
    """Store the entries of an export.

    The file is checked as a whole before anything is written. The entries are then stored in batches, each all or
    nothing where the store can (not across the slots of a Redis Cluster). An import that was interrupted is completed
    by running it again.

    Args:
        store: the store, or a namespace of one, for the root of the export.
        file: what to read, from its beginning. One that cannot seek, like a pipe, is first copied to a temporary file.
        name: what to call the file in messages.
        replace: afterwards the store and the namespaces below it hold what the file holds and nothing else. What is
            not in the file is deleted last, so an interruption loses nothing.
        resume: read what is stored, and write only what differs.
        progress: see `Progress`.

    Raises:
        CorruptData: the file is not a whole export; names the line. Nothing has been stored.
        InvalidKey: a namespace of the file is too long below the path of this store. Nothing has been stored.
    """
    base = _base(store)
    if not file.seekable():
        with tempfile.TemporaryFile() as spooled:
            for data in iter(partial(file.read, TRAVEL_BYTES), b""):
                go_on()
                spooled.write(data)
            return import_file(base, spooled, name=name, replace=replace, resume=resume, progress=progress)
    entries = 0
    try:
        for path, records in _read(file, name, progress):
            _at(base, path)
            entries += len(records)
    except CorruptData as e:
        raise CorruptData(f"{e}; nothing has been imported") from e.__cause__
    done = _apply(_read(file, name), base, "importing", entries, resume, progress)
    if not replace:
        return done
    wanted = ((path, record.key) for path, records in _read(file, name) for record in live(records, wall_ms()))
    return done._replace(deleted=_delete_rest(wanted, base, progress))


async def import_file_async(
    store: AnyStore,
    file: IO[bytes],
    *,
    name: str = "the export",
    replace: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Moved:
    """See `import_file`. Cancelled while it reads a pipe, it waits for what comes next there."""
    with Aside() as aside:
        return await aside.run(
            import_file, aside.lower(store), file, name=name, replace=replace, resume=resume, progress=progress
        )


def copy(
    source: Store,
    target: Store,
    *,
    replace: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Moved:
    """Store the entries of one store, and of every namespace below it, in another.

    In batches, as `import_file` does. A copy that was interrupted is completed by running it again. To move a store that
    is written to meanwhile, see `migrate`.

    Args:
        source: the store to read, or a namespace of one.
        target: the store to write to, or a namespace of one; it must not overlap the source.
        replace: see `import_file`.
        resume: see `import_file`.
        progress: see `Progress`.
    """
    old, new = _base(source), _base(target)
    count = total(old) if progress else None
    done = _apply(_pages(old), new, "copying", count, resume, progress)
    if not replace:
        return done
    wanted = ((path, key) for path, here in _walk(old) for keys in here._pages("") for key in keys)
    return done._replace(deleted=_delete_rest(wanted, new, progress))


async def copy_async(
    source: AnyStore,
    target: AnyStore,
    *,
    replace: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Moved:
    """See `copy`."""
    with Aside() as aside:
        old, new = aside.lower(source), aside.lower(target)
        return await aside.run(copy, old, new, replace=replace, resume=resume, progress=progress)


def migrate(source: Store, target: Store, *, progress: Progress | None = None) -> Moved:
    """Make the target, with every namespace below it, like the source, while an application goes on writing to the source.

    Each call is one pass, which writes what differs and deletes what the source does not have: it is `copy` with
    `resume` and `replace`. To move an application:

    1. `migrate`: most is carried while the application writes to the source;
    2. stop what writes, or make the application read-only;
    3. `migrate` again: only what has changed is carried;
    4. see that `differences(source, target, extra=True)` names nothing;
    5. give the application the URL of the target.

    What a pass cannot know:

    * No backend keeps a log of changes. So a pass reads all of both stores, however little has changed.
    * What is written to the source behind the place that a pass has come to is not carried until the next one; of Redis,
      whose keys are gathered first, nor is what is new since then.
    * What is written to the target meanwhile is not kept: what differs from the source is overwritten, and what is not
      in the source is deleted. So let nothing else write there before the last pass is done.
    * Deadlines within a second of each other count as equal: some engines tell the time that is left, and not the
      deadline.

    Args:
        source: the store to read, or a namespace of one.
        target: the store to write to, or a namespace of one; it must not overlap the source.
        progress: see `Progress`.
    """
    return copy(source, target, replace=True, resume=True, progress=progress)


async def migrate_async(source: AnyStore, target: AnyStore, *, progress: Progress | None = None) -> Moved:
    """See `migrate`."""
    return await copy_async(source, target, replace=True, resume=True, progress=progress)


def differences(
    source: Store, target: Store, *, extra: bool = False, progress: Progress | None = None
) -> Iterator[str]:
    """Read two stores side by side and name each entry that differs.

    Args:
        source: the store that has what there should be.
        target: the store to compare.
        extra: name also what only the target has.
        progress: see `Progress`.
    """
    left, right = _entries(_base(source), progress), _entries(_base(target))
    a, b = next(left, None), next(right, None)
    while a or b:
        if b is None or (a is not None and a[:2] < b[:2]):
            assert a is not None
            if live([a[2]], wall_ms()):
                yield f"{_name(a)} is missing"
            a = next(left, None)
        elif a is None or b[:2] < a[:2]:
            if extra and live([b[2]], wall_ms()):
                yield f"{_name(b)} is only in the target"
            b = next(right, None)
        else:
            if a[2].value != b[2].value:
                yield f"{_name(a)} has another value"
            elif not same(a[2], b[2]):
                yield f"{_name(a)} has another deadline"
            a, b = next(left, None), next(right, None)


async def differences_async(
    source: AnyStore, target: AnyStore, *, extra: bool = False, progress: Progress | None = None
) -> AsyncIterator[str]:
    """See `differences`."""
    with Aside() as aside:
        found = differences(aside.lower(source), aside.lower(target), extra=extra, progress=progress)
        while some := await aside.run(lambda: [*islice(found, PAGE)]):
            for difference in some:
                yield difference


def _entries(store: BaseStore, progress: Progress | None = None) -> Iterator[tuple[Path, str, Record]]:
    count = total(store) if progress else None
    for path, records in _pages(store):
        for record in records:
            yield path, record.key, record
        if progress:
            progress("comparing", len(records), count)


def _name(entry: tuple[Path, str, Record]) -> str:
    path, key, _ = entry
    return f"{key!r}" + (f" in namespace {'/'.join(path)!r}" if path else "")


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    if first := file.readline(_FIRST_LINE_MAX):
        yield first
        yield from iter(file.readline, b"")  # from the file itself, it would be closed with this generator


def _read(file: IO[bytes], name: str, progress: Progress | None = None) -> Iterator[Page]:
    """Give the entries of an export in pages, each line checked."""
    reader = Reader(name)
    length = file.seek(0, os.SEEK_END) if progress else None
    page: list[Record] = []
    path: Path = ()
    size = read = 0
    for data in _lines(file):
        read += len(data)
        entry = reader.line(data)
        if entry is None:
            continue
        if entry[0] != path or len(page) >= PAGE or size >= TRAVEL_BYTES:
            go_on()
            if page:
                yield path, page
            if progress:
                progress("checking", read, length)
            path, page, size, read = entry[0], [], 0, 0
        page.append(entry[1])
        size += len(data)
    reader.finish()
    if page:
        yield path, page


def _apply(
    pages: Iterable[Page], store: BaseStore, step: str, count: int | None, resume: bool, progress: Progress | None
) -> Moved:
    entries = stored = alike = expired = 0
    for path, records in pages:
        there = _at(store, path)
        wanted = live(records, wall_ms())
        entries += len(records)
        expired += len(records) - len(wanted)
        if resume and wanted:
            changed = _differing(there, wanted)
            alike += len(wanted) - len(changed)
            wanted = changed
        if wanted:
            there._load(wanted)
            stored += len(wanted)
        if progress:
            progress(step, len(records), count)
    return Moved(entries, stored, alike, expired, 0)


def _differing(store: BaseStore, records: list[Record]) -> list[Record]:
    """Give those that do not stand in the store as they are."""
    there = store._look([record.key for record in records])
    return [record for record in records if record.key not in there or not same(record, there[record.key])]


def _delete_rest(wanted: Iterator[tuple[Path, str]], store: BaseStore, progress: Progress | None) -> int:
    """Delete what is not wanted: both are walked in order, side by side."""
    next_wanted = next(wanted, None)
    count = total(store) if progress else None
    deleted = 0
    for path, here in _walk(store):
        for keys in here._pages(""):
            go_on()
            gone = []
            for key in keys:
                while next_wanted and next_wanted < (path, key):
                    next_wanted = next(wanted, None)
                if next_wanted != (path, key):
                    gone.append(key)
            deleted += here.delete_many(gone) if gone else 0
            if progress:
                progress("deleting the rest", len(keys), count)
    return deleted
