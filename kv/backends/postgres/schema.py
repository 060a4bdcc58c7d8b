"""The table, and how to know one of ours from any other. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

from kv.errors import ConfigError

SCHEMA_VERSION: Final = 1

_COLUMNS: Final = {
    "key_hash": "bigint NOT NULL",
    "key_check": "uuid NOT NULL",
    "namespace": 'text COLLATE "C" NOT NULL',
    "key": 'text COLLATE "C" NOT NULL',
    "value": "bytea NOT NULL",
    "expires_at": "timestamp with time zone",
    "expires_bucket": "integer",
    "updated_at": "timestamp with time zone NOT NULL",
}
_NOTES: Final = {
    "key_hash": "FNV-1a 64 of the key's UTF-8, signed",
    "key_check": "BLAKE2b 128 of namespace, U+001F, key",
    "namespace": "the names, joined by U+001F ('' is the root)",
    "expires_at": "NULL: never",
    "expires_bucket": "when cleanup looks at the row, in steps of 512 s: never later than expires_at",
}
_STORAGE: Final = {
    "fillfactor": "75",  # room for the next version of a row on its own page
    "autovacuum_vacuum_scale_factor": "0.02",  # the default lets a fifth of the table die first
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "1",
    "vacuum_truncate": "off",  # it would lock out everybody for a moment
    "toast.autovacuum_vacuum_scale_factor": "0.02",
    "toast.autovacuum_vacuum_threshold": "1000",
    "toast.vacuum_truncate": "off",
}

LOOK: Final = """
    SELECT c.oid IS NOT NULL, c.relkind::text, c.relpersistence::text, obj_description(c.oid, 'pg_class'),
        current_setting('server_encoding'), $2::text = '' OR to_regnamespace($2::text) IS NOT NULL,
        ARRAY(SELECT a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
                || CASE WHEN l.collname = 'C' THEN ' COLLATE "C"' ELSE '' END
                || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
            FROM pg_attribute AS a LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attname),
        ARRAY(SELECT a.attname::text FROM pg_index AS i, unnest(i.indkey::int[]) WITH ORDINALITY AS k (number, place)
            JOIN pg_attribute AS a ON a.attnum = k.number
            WHERE i.indrelid = c.oid AND a.attrelid = c.oid AND i.indisprimary ORDER BY k.place)
    FROM (VALUES (1)) AS one (row) LEFT JOIN pg_class AS c ON c.oid = to_regclass($1)
"""
"""What there is under a name: one row for `judge`. `$1` is the table as SQL names it, `$2` its schema or ''."""


def identifier(name: object, what: str) -> str:
    """Give a name as SQL takes it, or raise `ConfigError`."""
    if not isinstance(name, str) or not name or re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", name):
        raise ConfigError(f"{what}={name!r} is not a name; it takes 1 to 63 bytes without control characters")
    if (size := len(name.encode())) > 63:
        raise ConfigError(
            f"{what}={name!r} has {size} bytes; PostgreSQL keeps 63 of a name, so a longer one is refused"
        )
    return '"' + name.replace('"', '""') + '"'


class Table:
    """A table by its name and its options.

    Attributes:
        name: as SQL takes it.
        schema: the same; empty where `search_path` decides.
    """

    def __init__(self, table: str, schema: str | None, *, unlogged: bool, listing: bool) -> None:
        self.schema = "" if schema is None else identifier(schema, "schema")
        self.name = f"{self.schema}{self.schema and '.'}{identifier(table, 'table')}"
        self.unlogged = unlogged
        self.listing = listing
        self.has_schema = True

    def ddl(self, *, schema_too: bool = True) -> str:
        """Give the SQL that makes the table."""
        columns = [
            f"    {name} {kind},{' -- ' * (name in _NOTES)}{_NOTES.get(name, '')}\n" for name, kind in _COLUMNS.items()
        ]
        storage = ",\n".join(f"    {name} = {value}" for name, value in _STORAGE.items())
        create = [
            f"CREATE SCHEMA IF NOT EXISTS {self.schema};\n" if self.schema and schema_too else "",
            f"CREATE {'UNLOGGED ' if self.unlogged else ''}TABLE {self.name} (\n",
            *columns,
            f"    PRIMARY KEY (key_hash, key_check)\n) WITH (\n{storage}\n);\n",
            "-- for cleanup: no index on expires_at itself, so that a later deadline is a HOT update\n",
            f"CREATE INDEX ON {self.name} (expires_bucket) WHERE expires_bucket IS NOT NULL;\n",
            f"-- for keys, scan, count and clear; no entry grows with a long key\n{self.index}\n" * self.listing,
            f"COMMENT ON TABLE {self.name} IS 'anykv {SCHEMA_VERSION}';\n",
        ]
        return "".join(create)

    @property
    def creation(self) -> str:
        """The same where `judge` has looked: a schema that is there is not asked for, which takes a right of its own."""
        return self.ddl(schema_too=not self.has_schema)

    @property
    def index(self) -> str:
        """The SQL that makes the index for listing."""
        return f"CREATE INDEX ON {self.name} (namespace, left(key, 64));"

    def judge(self, found: Any, url: str) -> bool:
        """Give whether the table is there, by what `LOOK` has found; raise where another one is."""
        there, kind, persistence, comment, encoding, has_schema, columns, primary = found
        self.has_schema = has_schema
        if encoding != "UTF8":
            raise ConfigError(
                f"{url}: the database has the encoding {encoding}, and keys need UTF8; use another database"
            )
        if not there:
            return False
        version = re.fullmatch(r"anykv (\d+)", comment or "")
        if version and int(version[1]) > SCHEMA_VERSION:
            raise ConfigError(
                f"{url}: the table {self.name} has schema version {version[1]}, and this version of anykv knows "
                f"{SCHEMA_VERSION}; it was left untouched. Upgrade anykv, or name another table with table="
            )
        ours = {f"{name} {type_}" for name, type_ in _COLUMNS.items()}
        if kind not in ("r", "p") or {*columns} != ours or primary != ["key_hash", "key_check"]:
            wrong = [f"it has {', '.join(sorted({*columns} - ours))}"] if {*columns} - ours else []
            wrong += [f"it lacks {', '.join(sorted(ours - {*columns}))}"] if ours - {*columns} else []
            if not wrong:
                wrong = [f"its primary key is ({', '.join(primary)})" if kind in ("r", "p") else "it is no table"]
            raise ConfigError(
                f"{url}: {self.name} is not a table of anykv: {'; '.join(wrong)}. It was left untouched. Name another "
                "table with table=, or see `kv ddl` for the right one"
            )
        if (persistence == "u") != self.unlogged:
            is_, should = ("UNLOGGED", "LOGGED") if persistence == "u" else ("LOGGED", "UNLOGGED")
            raise ConfigError(
                f"{url}: the table {self.name} is {is_}, and the URL asks for {should}. Say "
                f"unlogged={str(not self.unlogged).lower()}, or change it, which rewrites it: "
                f"ALTER TABLE {self.name} SET {should}"
            )
        return True

    def missing(self, url: str) -> ConfigError:
        """The error where the table is not there, and may not be made."""
        return ConfigError(
            f"{url}: there is no table {self.name}, and it may not be made here (create=false); is the URL right? "
            "`kv ddl` prints the SQL that makes it"
        )
