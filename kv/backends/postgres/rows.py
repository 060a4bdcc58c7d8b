"""From keys and values to the parameters of the statements, and back. Pure, the same for both drivers."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from kv.errors import InvalidKey
from kv.expiry import KEEP_TTL
from kv.keys import SEPARATOR, Listing, check_key, check_path, fnv1a_64, fnv1a_64_many, prefix_end

from .errors import check_size
from .statements import PAGE_BYTES, Bounds, Statements

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from kv.expiry import Ages, Keep

Step: TypeAlias = tuple[str, tuple[Any, ...]]
"""A statement and its parameters."""

LONGEST: Final = 10_000
"""So many keys are asked for at a time at most."""
CHUNK: Final = 50_000
"""So many entries one statement stores at most."""
CHUNK_BYTES: Final = 64_000_000
"""The same, of their bytes."""


Row: TypeAlias = tuple[int, str, str]
"""Hash, check and key of an entry. Their order is the one in which every batch takes its locks."""


FIRST_ROW: Final[tuple[Any, ...]] = (-(2**63), "00000000-0000-0000-0000-000000000000")
"""Hash and check that come before those of every row."""


def ms(age: int | Keep | None) -> float | None:
    """Give a ttl as the parameter it is."""
    return None if age is None or age is KEEP_TTL else float(age)


@lru_cache(maxsize=256)
def checks_in(namespace: str) -> Callable[[bytes], str]:
    """Give what makes the `key_check` of a key of this namespace, from its UTF-8."""
    start = blake2b((namespace + SEPARATOR).encode(), digest_size=16).copy

    def check(text: bytes) -> str:
        hashed = start()
        hashed.update(text)
        return hashed.hexdigest()

    return check


@lru_cache(maxsize=4_096)
def located(namespace: str, key: str) -> tuple[int, str, str, str]:
    """Give the parameters `$1` to `$4` of a key. Kept for those asked lately: a tenth of what it takes to hash them."""
    text = key.encode()
    return fnv1a_64(text), checks_in(namespace)(text), namespace, key


class Rows:
    """The rows of one namespace in one table.

    Args:
        sql: the table's statements.
        path: the names of the namespace.
        array: how the driver takes the hashes or the checks of many rows.
    """

    def __init__(
        self, sql: Statements, path: tuple[str, ...], array: Callable[[Iterable[int | str]], object] = list
    ) -> None:
        self.sql = sql
        self.namespace = SEPARATOR.join(path)
        self._array = array
        self._check = checks_in(self.namespace)

    def one(self, key: str) -> tuple[Any, ...]:
        """Give the parameters `$1` to `$4` of a key, or raise `InvalidKey`."""
        return located(self.namespace, check_key(key))

    def ordered(self, keys: Collection[str]) -> list[Row]:
        """Give the rows of checked keys."""
        texts = [key.encode() for key in keys]
        return sorted(zip(fnv1a_64_many(texts), map(self._check, texts), keys, strict=True))

    def many(self, rows: list[Row], *more: object) -> tuple[Any, ...]:
        """Give the parameters `$1` to `$4` of many rows, and those after them."""
        hashes, checks, keys = zip(*rows, strict=True) if rows else ((), (), ())
        return self._array(hashes), self._array(checks), [*keys], self.namespace, *more

    # update

    def changed(self, key: str, live: object, answer: Mapping[str, bytes], ages: Ages) -> Step | None:
        """The statement that stores what became of one key that is locked, or is missing; None where nothing did."""
        new = answer.get(key)
        if new is None:
            return (self.sql.delete, self.one(key)) if live else None
        row = *self.one(key), check_size(key, new)
        if not live:
            return self.sql.add, (*row, ms(ages[1]))
        return (self.sql.change, row) if ages[0] is KEEP_TTL else (self.sql.change_until, (*row, ms(ages[0])))

    def all_changed(
        self, rows: list[Row], live: Mapping[str, bytes], answer: Mapping[str, bytes], ages: Ages
    ) -> Iterator[tuple[Step, int]]:
        """The statements that store what became of many locked keys, each with the number of rows it has to change."""
        kept = [row for row in rows if row[2] in answer]
        gone = [row for row in rows if row[2] not in answer]
        ages_ = ages[0] is KEEP_TTL, ms(ages[0]), ms(ages[1])
        for chunk in _chunks(kept, answer):
            values, there = [answer[row[2]] for row in chunk], [row[2] in live for row in chunk]
            yield (self.sql.change_many, self.many(chunk, values, there, *ages_)), len(chunk)
        if gone:
            yield (self.sql.remove_many, self.many(gone, [row[2] in live for row in gone])), len(gone)

    # batches

    def stored(self, entries: Mapping[str, bytes], age: int | None) -> list[Step]:
        """The statements that store the entries."""
        rows = self.ordered(entries)
        sql, more = (self.sql.set_many, ()) if age is None else (self.sql.set_many_until, (float(age),))
        steps = [
            (sql, self.many(chunk, [entries[key] for _, _, key in chunk], *more)) for chunk in _chunks(rows, entries)
        ]
        # a deadline counts from when nobody has to be waited for any more
        return steps if age is None else [(self.sql.lock_many, self.many(rows)), *steps]

    def loaded(self, records: Mapping[str, tuple[bytes, int | None]]) -> list[Step]:
        """The statements that store the entries with deadlines in milliseconds since 1970."""
        values = {key: value for key, (value, _) in records.items()}
        steps = []
        for chunk in _chunks(self.ordered(values), values):
            deadlines = [ms(records[key][1]) for _, _, key in chunk]
            steps.append((self.sql.load, self.many(chunk, [values[key] for _, _, key in chunk], deadlines)))
        return steps

    # listing

    def range(self, listing: Listing, *, first: bool = True) -> tuple[Bounds, tuple[str, ...]]:
        """What the statement of a listing's page has to know, and its parameters."""
        stop = listing.stop if first else None
        bounds = Bounds(stop is not None, max(len(listing.start), len(stop or "")) <= 64)
        return bounds, (self.namespace, listing.start, *(() if stop is None else (stop,)))

    def namespaces(self) -> tuple[str, ...]:
        """The parameters of what lists the namespaces inside this one."""
        if not self.namespace:
            return "", "\x01"
        head = self.namespace + SEPARATOR
        return head, head, prefix_end(head) or ""

    def names(self, found: Iterable[tuple[str]]) -> list[str]:
        """The names directly under this namespace, of the namespaces found in it."""
        start = len(self.namespace) + len(SEPARATOR) if self.namespace else 0
        return list(dict.fromkeys(name[start:].partition(SEPARATOR)[0] for (name,) in found))


def array_literal(items: Iterable[int | str]) -> str:
    """An array of numbers or hexadecimal digits as PostgreSQL reads it; psycopg takes longer to write it."""
    return f"{{{','.join(map(str, items))}}}"


def _chunks(rows: list[Row], values: Mapping[str, bytes]) -> Iterator[list[Row]]:
    """Give the rows in as many parts as their values' bytes need; one empty part of no rows."""
    for key, value in values.items():
        check_size(key, value)
    if len(rows) <= CHUNK and sum(map(len, values.values())) <= CHUNK_BYTES:
        yield rows
        return
    chunk: list[Row] = []
    size = 0
    for row in rows:
        more = len(values[row[2]])
        if chunk and (len(chunk) >= CHUNK or size + more > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += more
    yield chunk


def page_of(limit: int | None) -> int:
    """How many keys to ask for at a time; few numbers, so that there are few statements."""
    return next((size for size in (10, 100, 1_000) if limit is not None and limit <= size), LONGEST)


def inside(page: list[Any], listing: Listing) -> list[Any]:
    """Give of a page, which may go on behind the end of the range, what is inside."""
    stop = listing.stop
    return page if stop is None or not page or page[-1][0] < stop else [row for row in page if row[0] < stop]


def ended(page: list[Any], asked: int) -> bool:
    """Whether a page of entries was the last one."""
    return len(page) < asked and sum(len(row[1]) for row in page) < PAGE_BYTES


def wrong(row: tuple[Any, ...]) -> str | None:
    """What no store has written in a row of `Statements.every`; None where all is well."""
    key_hash, key_check, namespace, key, _, late = row
    found = []
    try:
        check_key(key)
        check_path(namespace.split(SEPARATOR) if namespace else ())
    except InvalidKey as e:
        found.append(str(e))
    else:
        if key_hash != fnv1a_64(key.encode()):
            found.append("a key_hash of another key")
        if key_check.replace("-", "") != checks_in(namespace)(key.encode()):
            found.append("a key_check of another key")
    if late:
        found.append("an expires_bucket after its deadline, so that cleanup comes too late")
    return f"namespace {namespace!r}, key {key!r}: {'; '.join(found)}" if found else None
