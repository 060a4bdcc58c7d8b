"""What several test files start from."""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING

import psycopg
import pytest
import servers

import kv
from kv import transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Admin = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of this test's own, no KV_URL, and a working directory to make files in. Gives the folder."""
    monkeypatch.delenv("KV_URL", raising=False)
    folder = tmp_path / "home"
    for name in ("HOME", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a SQLite file may be made."""
    return tmp_path / "app.db"


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], kv.Store]]:
    """Makes empty stores of one backend."""
    made: list[kv.Store] = []
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""

    def one() -> kv.Store:
        path = tmp_path / f"{len(made)}.db"
        made.append(
            kv.open({"memory": "memory://", "sqlite": f"sqlite:///{path}"}.get(request.param, f"{url}_{len(made)}"))
        )
        return made[-1]

    yield one
    for n, store in enumerate(made):
        store.close()
        if url:
            request.getfixturevalue("admin").execute(f"DROP TABLE {url.rpartition('=')[2]}_{n}")


@pytest.fixture
def memory() -> Iterator[kv.Store]:
    with kv.open("memory://") as store:
        yield store


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 100,000 entries, to read."""
    path = tmp_path_factory.mktemp("big") / "big.db"
    with kv.open(f"sqlite:///{path}?durability=normal") as store:
        for begin in range(0, 100_000, 20_000):
            store.set_many(
                (f"key:{n:07}", b"value of %d, and some more of it" % n) for n in range(begin, begin + 20_000)
            )
    return path


@pytest.fixture(scope="session")
def big_export(big: Path) -> Path:
    """An export of it."""
    path = big.parent / "big.jsonl"
    with kv.open(f"sqlite:///{big}") as store:
        transfer.export_file(store, path)
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Server]:
    """A PostgreSQL for all tests of this process, which leave it as it is."""
    server = servers.postgres()
    yield server
    server.close()


@pytest.fixture(scope="session")
def admin(postgres: servers.Server) -> Iterator[Admin]:
    """A connection to it, to look with, autocommit."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        yield connection


_tables = count()


@pytest.fixture
def table(admin: Admin) -> Iterator[str]:
    """The name of a table that nobody has."""
    name = f"kv_{os.getpid()}_{next(_tables)}"
    yield name
    admin.execute(f'DROP TABLE IF EXISTS "{name}"')


@pytest.fixture
def postgres_url(postgres: servers.Server, table: str) -> str:
    """Where a new, empty store may be made in PostgreSQL."""
    return f"{postgres.url}?table={table}"
