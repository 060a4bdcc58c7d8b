"""Every SQL text of a table, in the `$1` form that both drivers take. Pure.

A row is found by `key_hash` and `key_check`, and every statement compares the namespace and the key too: two keys with one
hash are two rows, and a clash of both hashes, which nobody can make, is an error and never a wrong value: a read finds no
row, and a write changes none.

Reads ask for `statement_timestamp()`. Writes ask for `clock_timestamp()`, when they have the row's lock: one that waited
must not count a deadline from before, or bring back an entry that has expired meanwhile.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kv.base import TRAVEL_BYTES

BATCH: Final = 2_000
"""So many rows `cleanup` and `clear` remove in a transaction at most."""
PAGE_BYTES: Final = 4_000_000
"""A page of values ends here, however few the entries are."""
HASTE: Final = 50
"""Milliseconds for which a statement of many callers waits for a lock."""
TICK: Final = 512
"""Seconds in one step of `expires_bucket`: with the longest ttl it still is an `integer`."""

_ONE = "s.key_hash = $1 AND s.key_check = $2::uuid AND s.namespace = $3 AND s.key = $4"
_SEEN = "(s.expires_at IS NULL OR s.expires_at > statement_timestamp())"
_LIVE = "(s.expires_at IS NULL OR s.expires_at > clock_timestamp())"
_COLUMNS = "key_hash, key_check, namespace, key, value, expires_at, expires_bucket, updated_at"
_MINE = "s.key_hash = a.h AND s.key_check = a.c AND s.namespace = $4 AND s.key = a.k"
_ASKED = "unnest($1::bigint[], $2::uuid[], $3::text[]) AS a (h, c, k)"
_SAME = "s.namespace = excluded.namespace AND s.key = excluded.key"
# The same where a row that is not written may have another reason: a clash divides by zero, which `errors.py` knows.
_SURELY = f"CASE WHEN {_SAME} THEN true ELSE 1 / (s.key_hash - excluded.key_hash) = 0 END"
_LEFT = "date_part('epoch', s.expires_at - statement_timestamp()) * 1000"
_DEADLINE = "ceil(date_part('epoch', s.expires_at) * 1000)"  # in milliseconds since 1970


def _until(ms: str) -> str:
    """The deadline so many milliseconds from now; NULL, which is never, of NULL."""
    return f"clock_timestamp() + {ms}::float8 * interval '1 millisecond'"


def bucket(at: str) -> str:
    """The step of `expires_bucket` that a time is in."""
    return f"floor(date_part('epoch', {at}) / {TICK})::int"


def _moved(new: str) -> str:
    """What `expires_bucket` becomes when the deadline is a new one.

    It says from when on `cleanup` looks at the row, so it may be too early and never too late. While it lies ahead it
    stays, though the deadline moves on: an update that changes no indexed column is a HOT one.
    """
    now = bucket("clock_timestamp()")
    return f"CASE WHEN s.expires_bucket > {now} AND s.expires_bucket <= {new} THEN s.expires_bucket ELSE {new} END"


def _aged(ms: str) -> str:
    """The assignments that give a row a deadline so many milliseconds from now."""
    until = _until(ms)
    return f"expires_at = {until}, expires_bucket = {_moved(bucket(until))}, updated_at = statement_timestamp()"


def _upsert(until: str, same: str = _SAME) -> str:
    return (  # the bucket as it was before the row was locked, which may be too early
        f"ON CONFLICT (key_hash, key_check) DO UPDATE SET value = excluded.value, expires_at = {until}, "
        f"expires_bucket = {_moved('excluded.expires_bucket')}, updated_at = statement_timestamp() WHERE {same}"
    )


class Bounds(NamedTuple):
    """What has to be known of a listing's range to write its condition."""

    closed: bool
    """Whether its end is part of it. Of the first page only: of `a >= x AND a < y` a planner that does not know the
    values believes that next to nothing lies between, and may sort all of it, which no page after that shall do again."""
    exact: bool
    """Whether neither bound is longer than what the index holds."""


class Statements:
    """The SQL texts for one table. `$1` to `$4` are a row's hash, check, namespace and key, or arrays of them."""

    def __init__(self, table: str) -> None:
        self.table = table
        into = f"INSERT INTO {table} AS s ({_COLUMNS})"
        until = _until("$6")
        row = f"$1, $2::uuid, $3, $4, $5, {until}, {bucket(until)}, statement_timestamp()"
        forever = "$1, $2::uuid, $3, $4, $5, NULL, NULL, statement_timestamp()"

        # one entry
        self.get = f"SELECT s.value FROM {table} AS s WHERE {_ONE} AND {_SEEN}"
        self.exists = f"SELECT 1 FROM {table} AS s WHERE {_ONE} AND {_SEEN}"
        self.size = f"SELECT octet_length(s.value) FROM {table} AS s WHERE {_ONE} AND {_SEEN}"
        self.ttl = (
            "SELECT coalesce(date_part('epoch', s.expires_at - statement_timestamp()), 'infinity') "
            f"FROM {table} AS s WHERE {_ONE} AND {_SEEN}"
        )
        forever_too = (
            "ON CONFLICT (key_hash, key_check) DO UPDATE SET value = excluded.value, "
            f"expires_at = NULL, expires_bucket = NULL, updated_at = statement_timestamp() WHERE {_SAME}"
        )
        self.set = f"{into} VALUES ({forever}) {forever_too}"
        self.set_until = f"{into} VALUES ({row}) {_upsert(until)}"
        self.add = f"{into} VALUES ({row}) {_upsert(until, _SURELY)} AND s.expires_at <= clock_timestamp()"
        # Whether it was live is asked when it is gone: that is after any wait for its lock, when WHERE is not asked again.
        delete = f"DELETE FROM {table} AS s WHERE {_ONE} AND {_LIVE}"
        self.delete = f"{delete} RETURNING {_LIVE}"
        self.pop = f"{delete} RETURNING CASE WHEN {_LIVE} THEN s.value END"
        self.delete_equal = f"{delete} AND s.value = $5 RETURNING {_LIVE}"
        # An UPDATE that waited for a lock asks its WHERE again only if the row has changed. So the lock comes first, and
        # the clock is read beside what that gives, or the planner could have it read before.
        locked = (
            f"WITH locked AS MATERIALIZED (SELECT interval '0' AS since FROM {table} AS s WHERE {_ONE} FOR UPDATE) "
            f"UPDATE {table} AS s SET "
        )
        ahead = "s.expires_at > clock_timestamp() + locked.since"
        there = f"FROM locked WHERE {_ONE} AND (s.expires_at IS NULL OR {ahead})"
        self.expire = f"{locked} {_aged('$5')} {there}"
        self.persist = (
            f"{locked} expires_at = NULL, expires_bucket = NULL, updated_at = statement_timestamp() "
            f"FROM locked WHERE {_ONE} AND {ahead}"
        )
        self.swap = f"{locked} value = $5, updated_at = statement_timestamp() {there} AND s.value = $6"
        self.swap_until = f"{locked} value = $5, {_aged('$6')} {there} AND s.value = $7"
        # for a row that `update` has locked before
        self.change = f"UPDATE {table} AS s SET value = $5, updated_at = statement_timestamp() WHERE {_ONE} AND {_LIVE}"
        self.change_until = f"UPDATE {table} AS s SET value = $5, {_aged('$6')} WHERE {_ONE} AND {_LIVE}"
        self.lock = (  # the clock is read outside of what waits
            f"SELECT s.value, {_LIVE} FROM (SELECT s.value, s.expires_at FROM {table} AS s WHERE {_ONE} FOR UPDATE) AS s"
        )
        self.increment = self._increment(into, "NULL", "NULL", "s.expires_at", "s.expires_bucket")
        self.increment_until = self._increment(
            into,
            _until("$8"),
            bucket(_until("$8")),
            f"CASE WHEN $6 THEN s.expires_at ELSE {_until('$7')} END",
            f"CASE WHEN $6 THEN s.expires_bucket ELSE {_moved(bucket(_until('$7')))} END",
        )

        # of many callers, in any namespaces, see `together.py`
        each = "unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[]"
        same = "s.key_hash = a.h AND s.key_check = a.c"
        self.get_each = (
            f"SELECT a.i, s.value FROM {each}) WITH ORDINALITY AS a (h, c, n, k, i) JOIN {table} AS s "
            f"ON {same} AND s.namespace = a.n AND s.key = a.k WHERE {_SEEN}"
        )
        # Who waits with others waits not long for a lock: it fails, all of it, and each goes by itself.
        hasty = f"(SELECT set_config('lock_timeout', '{HASTE}', true)) AS hasty"
        self.set_each = (
            f"{into} SELECT a.h, a.c, a.n, a.k, a.v, NULL, NULL, statement_timestamp() "
            f"FROM {hasty}, {each}, $5::bytea[]) AS a (h, c, n, k, v) "
            f"{forever_too} RETURNING s.key_hash, s.key_check"
        )
        until_each = _until("a.t")
        self.set_each_until = (
            f"{into} SELECT a.h, a.c, a.n, a.k, a.v, {until_each}, {bucket(until_each)}, clock_timestamp() "
            f"FROM {hasty}, {each}, $5::bytea[], $6::float8[]) AS a (h, c, n, k, v, t) "
            # counted again from when the lock is there
            f"{_upsert('clock_timestamp() + (excluded.expires_at - excluded.updated_at)')} "
            "RETURNING s.key_hash, s.key_check"
        )

        # many
        asked = f"FROM {_ASKED} JOIN {table} AS s ON {_MINE}"
        self.get_many = f"SELECT s.key, s.value {asked} WHERE {_SEEN}"
        self.look = f"SELECT s.key, s.value, {_DEADLINE} {asked} WHERE {_SEEN}"
        self.lock_many = (  # also what is missing: a placeholder that has expired, for nobody to see
            f"{into} SELECT a.h, a.c, $4, a.k, '', '-infinity', NULL, statement_timestamp() FROM {_ASKED} "
            f"ON CONFLICT (key_hash, key_check) DO UPDATE SET value = s.value WHERE NOT {_SURELY}"
        )
        self.read_many = f"SELECT s.key, s.value {asked} WHERE {_LIVE}"
        mine = "unnest($1::bigint[], $2::uuid[], $3::text[], $5::bytea[], $6::bool[]) AS a (h, c, k, v, live)"
        together = "statement_timestamp() + ms * interval '1 millisecond'"
        self.change_many = (
            f"UPDATE {table} AS s SET value = a.v, "
            f"expires_at = CASE WHEN a.live AND $7 THEN s.expires_at ELSE {together} END, "
            f"expires_bucket = CASE WHEN a.live AND $7 THEN s.expires_bucket ELSE {_moved(bucket(together))} END, "
            f"updated_at = statement_timestamp() FROM {mine}, "
            f"LATERAL (SELECT CASE WHEN a.live THEN $8::float8 ELSE $9::float8 END) AS age (ms) "
            f"WHERE {_MINE} AND {_LIVE} = a.live"
        )
        self.remove_many = (
            f"DELETE FROM {table} AS s USING unnest($1::bigint[], $2::uuid[], $3::text[], $5::bool[]) "
            f"AS a (h, c, k, live) WHERE {_MINE} AND {_LIVE} = a.live"
        )
        # side by side, and not as a table: that would be written and read again
        rows = "unnest($1::bigint[]), unnest($2::uuid[]), $4, unnest($3::text[]), unnest($5::bytea[])"
        self.set_many = f"{into} SELECT {rows}, NULL, NULL, statement_timestamp() {forever_too.replace(_SAME, _SURELY)}"
        # One deadline for all, or a reader could see a part of them; that of a statement for which they are locked.
        together = "statement_timestamp() + $6::float8 * interval '1 millisecond'"
        self.set_many_until = (
            f"{into} SELECT {rows}, {together}, {bucket(together)}, statement_timestamp() "
            f"ON CONFLICT (key_hash, key_check) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at, "
            f"expires_bucket = {_moved('excluded.expires_bucket')}, updated_at = statement_timestamp() WHERE {_SURELY}"
        )
        records = "unnest($1::bigint[], $2::uuid[], $3::text[], $5::bytea[], $6::float8[]) AS a (h, c, k, v, ms)"
        at = "timestamptz 'epoch' + a.ms * interval '1 millisecond'"
        self.load = (
            f"{into} SELECT a.h, a.c, $4, a.k, a.v, deadline, {bucket('deadline')}, statement_timestamp() "
            f"FROM {records}, LATERAL (SELECT {at}) AS until (deadline) "
            "WHERE deadline IS NULL OR deadline > clock_timestamp() "
            f"ON CONFLICT (key_hash, key_check) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at, "
            f"expires_bucket = excluded.expires_bucket, updated_at = statement_timestamp() WHERE {_SURELY}"
        )
        doomed = "s.key_hash = doomed.key_hash AND s.key_check = doomed.key_check"
        self.delete_many = (  # locked in the order of every other batch, or two could wait for each other
            f"WITH doomed AS MATERIALIZED (SELECT s.key_hash, s.key_check {asked} ORDER BY 1, 2 FOR UPDATE OF s) "
            f"DELETE FROM {table} AS s USING doomed WHERE {doomed} AND {_LIVE}"
        )
        self.cleanup = (
            "WITH doomed AS MATERIALIZED (SELECT s.key_hash, s.key_check "
            f"FROM {table} AS s WHERE s.expires_bucket <= {bucket('statement_timestamp()')} "
            "AND s.expires_at <= statement_timestamp() LIMIT $1::int FOR UPDATE SKIP LOCKED) "
            f"DELETE FROM {table} AS s USING doomed WHERE {doomed} AND s.expires_at <= statement_timestamp()"
        )

        # the whole
        self.stats = f"""
            SELECT count(*) FILTER (WHERE {_SEEN}), count(*) FILTER (WHERE s.expires_at <= statement_timestamp()),
                coalesce(sum(octet_length(s.key)) FILTER (WHERE {_SEEN}), 0)::bigint,
                coalesce(sum(octet_length(s.value)) FILTER (WHERE {_SEEN}), 0)::bigint,
                pg_total_relation_size('{table.replace("'", "''")}'::regclass), current_setting('server_version')
            FROM {table} AS s WHERE s.namespace = $1
        """
        self.every = (  # a hash of the value: it is read where it lies, and does not travel
            "SELECT s.key_hash, s.key_check::text, s.namespace, s.key, sha256(s.value) IS NOT NULL, "
            f"coalesce(s.expires_bucket > {bucket('s.expires_at')}, s.expires_at IS NOT NULL) "
            f"FROM {table} AS s WHERE (s.key_hash, s.key_check) > ($1, $2::uuid) ORDER BY 1, s.key_check LIMIT 1000"
        )
        self.clash = (
            f"SELECT 1 FROM {table} AS s WHERE s.key_hash = $1 AND s.key_check = $2::uuid "
            "AND (s.namespace <> $3 OR s.key <> $4)"
        )
        self.compact = f"VACUUM (TRUNCATE, ANALYZE) {table}"

    @staticmethod
    def _increment(into: str, until: str, step: str, kept: str, kept_step: str) -> str:
        """The text for a deadline and a step of a new entry, and for those of one that is there."""
        text = "encode(s.value, 'escape')"  # of any bytes, without an error
        number = (
            f"CASE WHEN octet_length(s.value) <= 20 AND {text} ~ '^(0|-?[1-9][0-9]{{0,18}})$' THEN {text}::numeric END"
        )
        fits = "BETWEEN -9223372036854775808 AND 9223372036854775807"
        # OFFSET 0: whether it is live is asked once, or value and deadline could be told differently
        return (
            f"{into} VALUES ($1, $2::uuid, $3, $4, convert_to($5::bigint::text, 'UTF8'), {until}, {step}, "
            "statement_timestamp()) ON CONFLICT (key_hash, key_check) DO UPDATE SET "
            "updated_at = statement_timestamp(), (value, expires_at, expires_bucket) = (SELECT "
            f"CASE WHEN live THEN convert_to(({text}::numeric + $5::bigint)::text, 'UTF8') ELSE excluded.value END, "
            f"CASE WHEN live THEN {kept} ELSE {until} END, CASE WHEN live THEN {kept_step} ELSE {step} END "
            f"FROM (SELECT {_LIVE} AS live OFFSET 0) AS now) "
            f"WHERE {_SAME} AND (NOT {_LIVE} OR coalesce(({number}) {fits} AND ({number}) + $5::bigint {fits}, false)) "
            "RETURNING s.value"
        )

    # listing: `$1` is the namespace, `$2` where the keys begin, `$3` where they end

    @staticmethod
    def _range(bounds: Bounds, stop: str = "$3::text") -> str:
        start, end = "left(s.key, 64) >= left($2::text, 64)", f"left(s.key, 64) <= left({stop}, 64)"
        if bounds.exact:  # of texts not longer than that, the order of the first 64 characters is that of the keys
            end = end.replace("<=", "<")
        else:
            start, end = f"{start} AND s.key >= $2::text", f"{end} AND s.key < {stop}"
        return f"s.namespace = $1 AND {start}{f' AND {end}' if bounds.closed else ''}"

    def _page(self, columns: str, limit: int, bounds: Bounds) -> str:
        # The limit is part of the text, for the planner to know it: a page must never be worth sorting everything. For
        # the same reason it does not see the end of the range: among millions, it would believe that next to nothing
        # lies before it, and read all that does.
        return (
            f"SELECT {columns} FROM {self.table} AS s WHERE {self._range(bounds, '(SELECT $3::text)')} AND {_SEEN} "
            f"ORDER BY left(s.key, 64), s.key LIMIT {limit}"
        )

    def keys(self, limit: int, bounds: Bounds) -> str:
        """The live keys of the range."""
        return self._page("s.key", limit, bounds)

    def scan(self, limit: int, bounds: Bounds) -> str:
        """The entries of the range, the milliseconds they have left with them, and no more bytes than a page may have."""
        return self._by_bytes(_LEFT, limit, bounds, PAGE_BYTES)

    def dump(self, limit: int, bounds: Bounds) -> str:
        """The entries from `$2` on, with their deadlines in milliseconds since 1970."""
        return self._by_bytes(_DEADLINE, limit, bounds, TRAVEL_BYTES)

    def _by_bytes(self, third: str, limit: int, bounds: Bounds, most: int) -> str:
        page = self._page(f"s.key, s.value, {third} AS third", limit, bounds)
        return (
            "SELECT key, value, third FROM (SELECT key, value, third, sum(octet_length(value)) OVER (ORDER BY key "
            f"ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM ({page}) AS page) AS page "
            f"WHERE before IS NULL OR before < {most} ORDER BY key"
        )

    def count(self, bounds: Bounds) -> str:
        """How many live keys the range has."""
        return f"SELECT count(*) FROM {self.table} AS s WHERE {self._range(bounds)} AND {_SEEN}"

    def clear(self, bounds: Bounds) -> str:
        """Remove a batch of the range: how many rows it had, and how many of them were live."""
        return (
            f"WITH page AS MATERIALIZED (SELECT s.key_hash, s.key_check FROM {self.table} AS s "
            f"WHERE {self._range(bounds)} LIMIT {BATCH}), doomed AS MATERIALIZED "
            f"(SELECT s.key_hash, s.key_check FROM page JOIN {self.table} AS s USING (key_hash, key_check) "
            f"ORDER BY 1, 2 FOR UPDATE OF s), gone AS (DELETE FROM {self.table} AS s USING doomed "
            "WHERE s.key_hash = doomed.key_hash AND s.key_check = doomed.key_check "
            f"RETURNING {_LIVE} AS live) SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM gone WHERE live)"
        )

    def namespaces(self, *, listing: bool, bounded: bool) -> str:
        """The namespaces with live entries from `$2` on, which begins with `$1`; of each name behind that at least one."""
        end = " AND s.namespace < $3::text" if bounded else ""
        if not listing:  # without the index each step below would read the whole table
            return (
                f"SELECT DISTINCT s.namespace FROM {self.table} AS s WHERE starts_with(s.namespace, $1::text) "
                f"AND s.namespace >= $2::text{end} AND {_SEEN} ORDER BY 1"
            )

        def first(start: str) -> str:
            where = f"s.namespace >= {start}{end} AND {_SEEN}"
            return f"SELECT s.namespace FROM {self.table} AS s WHERE {where} ORDER BY s.namespace LIMIT 1"

        # behind all that are in the one found: the least that another name can begin with
        after = "($1::text || split_part(substr(found.name, length($1::text) + 1), chr(31), 1) || ' ')"
        return (
            f"WITH RECURSIVE found (name) AS (({first('$2::text')}) UNION ALL SELECT ({first(after)}) "
            "FROM found WHERE found.name IS NOT NULL) SELECT name FROM found WHERE name IS NOT NULL"
        )
