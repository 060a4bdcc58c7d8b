"""What both colours of the PostgreSQL store have, and what needs no connection. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from kv import options
from kv.base import PAGE
from kv.errors import ConfigError, CorruptData
from kv.expiry import KEEP_TTL, update_ttl_ms
from kv.keys import Listing, check_key
from kv.store import Record, Stats
from kv.url import hide
from kv.values import check_amount, check_compared, check_sum, check_value, to_int

from . import address
from .errors import check_size, clash
from .rows import Rows, Step, ms
from .schema import LOOK, Table
from .statements import Statements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

    from kv.expiry import TTL, Keep
    from kv.store import Value

_OPTIONS: Final[Mapping[str, options.Check]] = {
    "cleanup_interval": options.seconds_or_off,
    "create": options.flag,
    "listing": options.flag,
    "lock_timeout": options.seconds,
    "namespace": options.names,
    "pool_max": options.whole(1),
    "pool_min": options.whole(0),
    "schema": options.names,
    "socket_timeout": options.seconds,
    "table": options.names,
    "unlogged": options.flag,
}


class Settings:
    """What both colours are told, checked."""

    def __init__(self, server: object, what: str, **given: object) -> None:
        opts: Any = options.checked(given, _OPTIONS, what)
        self.create: bool = opts["create"]
        self.timeout: float = opts["lock_timeout"]
        self.longest = self.timeout + opts["socket_timeout"]  # seconds until an answer: it may wait for a lock first
        self.cleanup_interval: float | None = opts["cleanup_interval"]
        self.least: int = opts["pool_min"]
        self.most: int = opts["pool_max"]
        if self.least > self.most:
            raise ConfigError(f"pool_min={self.least} is more than pool_max={self.most}")
        self.table = Table(opts["table"], opts["schema"], unlogged=opts["unlogged"], listing=opts["listing"])
        self.url = address.check(server) if isinstance(server, str) else None
        self.shown = hide(self.url) if self.url is not None else f"the PostgreSQL of the given {type(server).__name__}"
        self.sql = Statements(self.table.name)

    @property
    def look(self) -> Step:
        """What asks for the table."""
        return LOOK, (self.table.name, self.table.schema)

    def missing(self, row: Any) -> bool:
        """Whether the table has to be made, by what was found; raises where it is another one, or may not be made."""
        if self.table.judge(row, self.shown):
            return False
        if not self.create:
            raise self.table.missing(self.shown)
        return True


class Parts:
    """What both colours have, and what needs no connection."""

    url_options: ClassVar[Mapping[str, options.Check]] = _OPTIONS
    url_parameters: ClassVar[tuple[str, ...]] = address.PARAMETERS
    _first_page: ClassVar[int] = PAGE
    _path: tuple[str, ...]
    _settings: Settings
    _sql: Statements
    _rows: Rows

    def _use(self, settings: Settings) -> None:
        self._settings = settings
        self._sql = settings.sql
        self._rows = self._rows_of(self._path)

    def _rows_of(self, path: tuple[str, ...]) -> Rows:
        return Rows(self._sql, path)

    @classmethod
    def from_url(cls, url: str, **opts: Any) -> Self:
        """Open by a URL, with the options taken off it; see `kv.open`."""
        return cls(url, **opts)  # type: ignore[call-arg]

    @classmethod
    def _ddl_of_url(cls, url: str, **opts: Any) -> str:
        """Give the SQL that makes the table which the URL names, without connecting."""
        address.check(url)
        opts = {"table": "kv_store", "schema": None, "unlogged": False, "listing": True, **opts}
        return Table(opts["table"], opts["schema"], unlogged=opts["unlogged"], listing=opts["listing"]).ddl()

    def ddl(self) -> str:
        """Give the SQL that makes the table."""
        return self._settings.table.ddl()

    def _where(self) -> str:
        return self._settings.shown

    # the parameters that are more than an entry's own

    def _put(self, key: str, value: Value, age: int | None) -> Step:
        one = self._rows.one(key)
        new = check_size(key, check_value(value, key))
        return (self._sql.set, (*one, new)) if age is None else (self._sql.set_until, (*one, new, float(age)))

    def _addition(self, key: str, value: Value, age: int | None) -> Step:
        return self._sql.add, (*self._rows.one(key), check_size(key, check_value(value, key)), ms(age))

    def _swap(self, key: str, expected: Value | None, value: Value | None, ttl: TTL | Keep) -> Step | None:
        """The statement that compares and sets; None where nothing has to be there, and nothing is to be stored."""
        old, new = check_compared(expected, value, key)
        ages = update_ttl_ms(ttl, None)
        one = self._rows.one(key)
        if new is not None:
            check_size(key, new)
        if old is None:
            return None if new is None else (self._sql.add, (*one, new, ms(ages[1])))
        if new is None:
            return self._sql.delete_equal, (*one, old)
        if ages[0] is KEEP_TTL:
            return self._sql.swap, (*one, new, old)
        return self._sql.swap_until, (*one, new, ms(ages[0]), old)

    def _addend(self, key: str, amount: int, ttl: TTL | Keep, ttl_if_new: TTL) -> Step:
        one = self._rows.one(key)
        number = check_amount(amount, key)
        there, created = update_ttl_ms(ttl, ttl_if_new)
        if there is KEEP_TTL and created is None:
            return self._sql.increment, (*one, number)
        return self._sql.increment_until, (*one, number, there is KEEP_TTL, ms(there), ms(created))

    def _clash(self) -> CorruptData:
        return clash(self._settings.shown, self._settings.table.name)

    # travelling, see kv.transfer

    def _dumping(self, after: str | None, limit: int) -> Step:
        bounds, args = self._rows.range(Listing(after=after))
        return self._sql.dump(limit, bounds), args

    def _looking(self, keys: list[str]) -> Step:
        return self._sql.look, self._rows.many(self._rows.ordered(keys))

    def _loading(self, records: Iterable[Record]) -> list[Step]:
        checked = {check_key(key): (check_value(value, key), until) for key, value, until in records}
        return self._rows.loaded(checked)


def said(row: Any) -> bool:
    """What a statement said in the only column of its only row; False where it has none."""
    return row is not None and bool(row[0])


def records_of(rows: Iterable[Any]) -> list[Record]:
    """The entries of rows with a deadline in milliseconds since 1970."""
    return [Record(key, value, None if until is None else int(until)) for key, value, until in rows]


def refuse(current: bytes | None, amount: int, key: str) -> None:
    """Raise what stood against an `increment`, if it still stands there."""
    if current is not None:
        check_sum(to_int(current, key) + amount, key)


def stats_of(row: Any) -> Stats:
    keys, expired, key_bytes, value_bytes, disk_bytes, version = row
    return Stats(keys, expired, key_bytes, value_bytes, disk_bytes, "postgresql", version)
