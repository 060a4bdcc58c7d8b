"""Move a `shelve`, a sqlitedict or a diskcache into a store, once, without the package that made it.

    python examples/move_in.py shelve jobs sqlite:///app.db --unpickle
    python examples/move_in.py sqlitedict dict.sqlite "sqlite:///app.db?namespace=dict" --table results --unpickle
    python examples/move_in.py diskcache /var/cache/app postgresql://localhost/app

Stop what writes to the old files first, and let nothing use the new entries before the move is done: running it again
stores the same again, over whatever is there. The old files are only read. Values become JSON, for `kv.typed(store)`, or
with `--as raw` plain bytes. Deadlines are kept. What a store cannot hold exactly as it was is left out and named on the
standard output; a summary is on the standard error. Exit code: 0 all carried, 1 something was left out, 2 could not go on.
"""

from __future__ import annotations

import argparse
import dbm
import io
import os
import pickle  # see `Plain`
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import kv
from kv import codecs
from kv.keys import check_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BATCH = 500
BATCH_BYTES = 1 << 20
JSON: codecs.Codec[object] = codecs.json()  # what `kv.typed(store)` writes


class Left(Exception):
    """Why an entry is left out. Never shows a value."""


class Refused(Exception):
    """Why nothing can be read."""


class Pickled(NamedTuple):
    """A value that is pickled."""

    data: bytes


class Row(NamedTuple):
    """An entry as the old files hold it."""

    name: str
    """What a message calls it."""
    key: object
    value: object
    """Itself, or a `Pickled`, or a `Left`."""
    expires: float | None = None
    """The deadline, in seconds since 1970."""


class Source(NamedTuple):
    """The old files, opened."""

    rows: Iterable[Row]
    total: int
    note: str = ""


# the old files


@contextmanager
def read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a SQLite file so that nothing beside it is made or changed, whatever its writer left behind.

    SQLite itself would write: it recovers a log, and makes files to share. So what has a log is read from a copy.
    """
    path = path.resolve()
    files = [path, *(Path(f"{path}{end}") for end in ("-wal", "-journal"))]

    def state() -> list[tuple[int, int] | None]:
        seen = [file.stat() if file.exists() else None for file in files]
        return [(s.st_size, s.st_mtime_ns) if s and s.st_size else None for s in seen]

    def check() -> None:
        if state() != before:
            raise Refused(f"{path} was written to meanwhile; stop what uses it, and run this again")

    before = state()
    if before[0] is None:
        raise Refused(f"{path} is empty, or not there")
    with ExitStack() as stack:
        uri = path.as_uri() + "?mode=ro&immutable=1"
        if any(before[1:]):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for file, found in zip(files, before, strict=True):
                if found:
                    shutil.copyfile(file, folder / file.name)
            check()  # that these are of one moment
            uri = (folder / path.name).as_uri()
        db = sqlite3.connect(uri, uri=True)
        stack.callback(db.close)
        db.text_factory = lambda data: data.decode(errors="surrogateescape")  # one bad text does not stop the others
        yield db
        check()


@contextmanager
def diskcache(path: Path, _: str | None) -> Iterator[Source]:
    """Open the folder of a `Cache`, or of a `FanoutCache`, whose shards are such folders."""
    one = path / "cache.db"
    files = [one] if one.exists() else sorted(path.glob("[0-9][0-9][0-9]/cache.db"))
    if not files:
        raise Refused(f"{path} is not the folder of a diskcache")
    with ExitStack() as stack:
        shards = [(file.parent.resolve(), stack.enter_context(read_only(file))) for file in files]
        totals = [db.execute("SELECT count(*), count(tag) FROM Cache").fetchone() for _, db in shards]
        tags = sum(tagged for _, tagged in totals)
        inner = {*path.rglob("cache.db")} - {*files}  # of FanoutCache.cache(), index() and deque()
        notes = [f"{tags:,} had a tag, which a store has none of"] if tags else []
        notes += [f"{file.parent} is a cache of its own, to be moved by itself" for file in sorted(inner)]
        yield Source(_of_shards(shards), sum(count for count, _ in totals), "; ".join(notes))


def _of_shards(shards: list[tuple[Path, sqlite3.Connection]]) -> Iterator[Row]:
    def clashes(key: int) -> bool:
        query = "SELECT 1 FROM Cache WHERE key = ? AND raw = 1"
        return any(db.execute(query, (str(key),)).fetchone() for _, db in shards)

    query = "SELECT rowid, key, raw, expire_time, mode, filename, value FROM Cache ORDER BY rowid"
    for folder, db in shards:
        for row, key, raw, expires, mode, filename, value in db.execute(query):
            if not raw:
                key = Left("its key is neither str, bytes nor a number")  # noqa: PLW2901
            elif type(key) is int:
                key = Left("a str key reads like its int key") if clashes(key) else str(key)  # noqa: PLW2901
            name = repr(key) if isinstance(key, str) else f"{folder.name}/cache.db row {row}"
            yield Row(name, key, _of_diskcache(folder, mode, filename, value), expires)


def _of_diskcache(folder: Path, mode: int, filename: str | None, value: object) -> object:
    """Give a value as `diskcache.Disk.store` wrote it: by itself, or in a file when it is large."""
    raw, binary, text, pickled = 1, 2, 3, 4
    if mode == raw and value is None:
        return Left("SQLite holds no NaN")
    if filename is not None:
        file = (folder / filename).resolve()
        if not file.is_relative_to(folder):
            return Left("its file lies elsewhere")
        try:
            value = file.read_bytes()
        except OSError as e:
            return Left(f"its file cannot be read ({type(e).__name__})")
        if mode == text:
            return value.decode(errors="surrogateescape")
    if mode == pickled and isinstance(value, bytes):
        return Pickled(value)
    return value if mode in (raw, binary) else Left("diskcache would not read it either")


@contextmanager
def sqlitedict(path: Path, table: str | None) -> Iterator[Source]:
    """Open one table of a file. A value that is no BLOB was written by an `encode=` that pickles nothing."""
    with read_only(path) as db:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        tables = [name for (name,) in db.execute(query)]
        if table is None and len(tables) == 1:
            (table,) = tables
        if table is None or table not in tables:
            raise Refused(f"name the table with --table: {', '.join(map(repr, tables)) or 'there is none'}")
        name = '"' + table.replace('"', '""') + '"'
        rows = db.execute(f"SELECT rowid, key, value FROM {name} ORDER BY rowid")
        total: int = db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
        yield Source(
            (
                Row(repr(k) if isinstance(k, str) else f"row {row}", k, Pickled(v) if isinstance(v, bytes) else v)
                for row, k, v in rows
            ),
            total,
        )


@contextmanager
def shelve(path: Path, _: str | None) -> Iterator[Source]:
    """Open what `shelve.open(path)` made: a dbm of pickles, since Python 3.13 in a SQLite file."""
    if _is_sqlite(path):
        with read_only(path) as db:
            total: int = db.execute("SELECT count(*) FROM Dict").fetchone()[0]
            yield Source((_of_shelve(k, v) for k, v in db.execute("SELECT key, value FROM Dict")), total)
    else:
        with dbm.open(str(path), "r") as old:
            keys = cast("list[bytes]", old.keys())
            yield Source((_of_shelve(key, old[key]) for key in keys), len(keys))


def _is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _of_shelve(key: bytes, value: bytes) -> Row:
    text = key.decode(errors="surrogateescape")  # what is no UTF-8 is no key of a store
    return Row(repr(text), text, Pickled(value))


KINDS = {"diskcache": diskcache, "shelve": shelve, "sqlitedict": sqlitedict}


# their values


class Plain(pickle.Unpickler):
    """Unpickles what JSON can hold, for which a pickle needs to name nothing; so no code that it names is run."""

    def find_class(self, module: str, name: str) -> object:
        raise Left(f"its pickle needs {f'{module}.{name}'[:100]!r}")


def plain(value: object, *, unpickle: bool) -> object:
    """Give a value itself, or raise `Left`."""
    if isinstance(value, Left):
        raise value
    if not isinstance(value, Pickled):
        return value
    if not unpickle:
        raise Left("it is pickled; see --unpickle")
    try:
        return Plain(io.BytesIO(value.data)).load()
    except Left:
        raise
    except Exception as e:  # damaged pickles raise all kinds
        raise Left(f"it is not a whole pickle ({type(e).__name__})") from None


def encoded(value: object, *, raw: bool) -> bytes:
    """Give a value as bytes for a store, or raise `Left`."""
    try:
        if not raw:
            return JSON.encode(value)
        if type(value) is bytes:
            return value
        if type(value) is str:
            return value.encode()
    except UnicodeEncodeError:
        raise Left("its text is not UTF-8") from None
    except ValueError as e:  # which says why, and never shows the value
        raise Left(str(e).partition(";")[0]) from None
    raise Left(f"{type(value).__name__} is neither bytes nor str; see --as")


# the move


class Move:
    """Carries entries into a store: those without a deadline in batches, each all or nothing."""

    def __init__(self, store: kv.Store, *, unpickle: bool = False, raw: bool = False) -> None:
        self.store = store
        self.unpickle = unpickle
        self.raw = raw
        self.carried = 0
        self.expired = 0
        self.left: Counter[str] = Counter()
        self._batch: dict[str, bytes] = {}
        self._bytes = 0

    def run(self, rows: Iterable[Row]) -> None:
        """Carry all of them."""
        for row in rows:
            if row.expires is not None and row.expires <= time.time():
                self.expired += 1
                continue
            try:
                if isinstance(row.key, Left):
                    raise row.key
                if not isinstance(row.key, str):
                    raise Left(f"its key is of type {type(row.key).__name__}")
                key = check_key(row.key)
                value = encoded(plain(row.value, unpickle=self.unpickle), raw=self.raw)
                self._put(key, value, row.expires)
            except (Left, kv.InvalidKey, kv.InvalidTTL, kv.ValueTooLarge) as e:
                self._leave(row.name, e)
        self._flush()

    def _put(self, key: str, value: bytes, expires: float | None) -> None:
        if expires is not None:
            self.store.set(key, value, ttl=max(expires - time.time(), 0.001))
            self.carried += 1
            return
        self._batch[key] = value
        self._bytes += len(value)
        if len(self._batch) >= BATCH or self._bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch, self._bytes = self._batch, {}, 0
        if not batch:
            return
        try:
            self.store.set_many(batch)
            self.carried += len(batch)
        except (kv.ConfigError, kv.ValueTooLarge):  # keys of several servers of a cluster, or one that is too large
            for key, value in batch.items():
                try:
                    self.store.set(key, value)
                    self.carried += 1
                except kv.ValueTooLarge as e:
                    self._leave(repr(key), e)

    def _leave(self, name: str, why: Exception) -> None:
        reason = str(why) if isinstance(why, Left) else type(why).__name__  # theirs name the key again
        self.left[reason] += 1
        print(f"{name}: {why}")

    def summary(self) -> str:
        """Say what became of all."""
        lines = [f"carried {self.carried:,}, expired {self.expired:,}, left out {self.left.total():,}"]
        lines += [f"  {count:,}: {reason}" for reason, count in self.left.most_common(20)]
        return "\n".join(lines)


def with_progress(rows: Iterable[Row], total: int) -> Iterable[Row]:
    """Show how far it is, where somebody looks and `rich` is installed."""
    if not sys.stderr.isatty():
        return rows
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return rows
    return track(rows, "moving", total, console=Console(stderr=True), transient=True)


def main() -> int:
    """Run the command line. Gives the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("kind", choices=KINDS, help="what made the old files")
    parser.add_argument("path", type=Path, help="what was given to Cache(), FanoutCache(), SqliteDict(), shelve.open()")
    parser.add_argument("url", nargs="?", help="the store; without it, KV_URL")
    parser.add_argument("--table", help="sqlitedict's tablename, where there are several")
    parser.add_argument("--as", dest="form", choices=["json", "raw"], default="json", help="what values become")
    parser.add_argument(
        "--unpickle",
        action="store_true",
        help="read pickled values too, for files of your own only. Loading a pickle may run any code, for whoever can "
        "write to the file; this program lets a pickle name no code, and leaves out what needs it, and yet a hostile "
        "one can fill the memory",
    )
    args = parser.parse_args()
    move = None
    try:
        with KINDS[args.kind](args.path, args.table) as source, kv.open(args.url) as store:
            move = Move(store, unpickle=args.unpickle, raw=args.form == "raw")
            move.run(with_progress(source.rows, source.total))
            print(move.summary() + (f"\n  note: {source.note}" if source.note else ""), file=sys.stderr)
    except (Refused, kv.KVError, OSError, sqlite3.Error, KeyboardInterrupt, *dbm.error) as e:
        so_far = f"; carried {move.carried:,} so far, run it again" if move else ""
        print(f"{os.path.basename(sys.argv[0])}: {str(e) or 'interrupted'}{so_far}", file=sys.stderr)
        return 2
    return 1 if move.left else 0


if __name__ == "__main__":
    sys.exit(main())
