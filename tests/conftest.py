"""What several test files start from."""

from __future__ import annotations

import contextlib
import os
import tempfile
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
import servers
from histories import MANY, SOAK, Soak, started
from redis import Redis, RedisCluster

import kv
from kv import transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from kv.testing.processes import Process

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


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """The same, of one that is opened a thousand times and never outlives its kernel: in memory, if that has folders."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        yield Path(folder) / "app.db"


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis", "cluster"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], kv.Store]]:
    """Makes empty stores of one backend."""
    made: list[kv.Store] = []
    kind = request.param
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/"}.get(kind) or request.getfixturevalue(
        f"{kind}_url"
    )

    def one() -> kv.Store:
        n = len(made)
        made.append(
            kv.open(
                {"memory": url, "sqlite": f"{url}{n}.db", "postgres": f"{url}_{n}"}.get(kind, f"{url}&namespace=s{n}")
            )
        )
        return made[-1]

    yield one
    for n, store in enumerate(made):
        store.close()
        if kind == "postgres":
            request.getfixturevalue("admin").execute(f"DROP TABLE {url.rpartition('=')[2]}_{n}")


SHARED = ["sqlite", "postgres", "redis", "cluster"]


def _url(kind: str, request: pytest.FixtureRequest, path: Path) -> str:
    urls = {
        "memory": "memory://",
        "sqlite": f"sqlite:///{path}/app.db?durability=normal",
        "lmdb": f"lmdb:///{path}/app.lmdb?durability=normal",
    }
    return urls.get(kind) or str(request.getfixturevalue(f"{kind}_url"))


@pytest.fixture(params=["memory", *SHARED])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new, empty store may be made, of each backend."""
    return _url(request.param, request, tmp_path)


@pytest.fixture(params=SHARED)
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same, of each that several processes can open."""
    return _url(request.param, request, tmp_path)


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
        connection.execute("SET lock_timeout = '60s'")  # what a test that failed has locked holds up no other for ever
        yield connection


_numbers = count()


@pytest.fixture
def table(admin: Admin) -> Iterator[str]:
    """The name of a table that nobody has."""
    name = f"kv_{os.getpid()}_{next(_numbers)}"
    yield name
    admin.execute(f'DROP TABLE IF EXISTS "{name}"')


@pytest.fixture
def postgres_url(postgres: servers.Server, table: str) -> str:
    """Where a new, empty store may be made in PostgreSQL."""
    return f"{postgres.url}?table={table}"


@pytest.fixture(scope="session")
def redis() -> Iterator[servers.Server]:
    """A Redis for all tests of this process, which leave it as it is."""
    server = servers.redis()
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis_admin(redis: servers.Server) -> Iterator[Redis]:
    """A client of it, to look with."""
    with Redis.from_url(redis.url) as client:
        yield client


@pytest.fixture(scope="session")
def cluster() -> Iterator[servers.Server]:
    """A Redis Cluster for all tests of this process, which leave it as it is."""
    server = servers.cluster()
    yield server
    server.close()


@pytest.fixture(scope="session")
def cluster_admins(cluster: servers.Server) -> Iterator[list[Redis]]:
    """A client of each of its primaries, to look with."""
    url = urlsplit(cluster.url)
    one = url._replace(scheme=url.scheme.removesuffix("+cluster"), netloc=url.netloc.partition(",")[0])
    with RedisCluster.from_url(one.geturl()) as client:
        yield [client.get_redis_connection(node) for node in client.get_primaries()]


@contextlib.contextmanager
def _empty(url: str, primaries: list[Redis]) -> Iterator[str]:
    """Where a new, empty store may be made, which is gone afterwards."""
    prefix = f"kv{os.getpid()}_{next(_numbers)}"
    yield f"{url}?prefix={prefix}"
    for client in primaries:
        with client.pipeline(transaction=False) as pipeline:
            for key in client.scan_iter(f"{prefix}:*", count=1_000_000):
                pipeline.unlink(key)
            pipeline.execute()


@pytest.fixture
def redis_url(redis: servers.Server, redis_admin: Redis) -> Iterator[str]:
    """Where a new, empty store may be made in Redis."""
    with _empty(redis.url, [redis_admin]) as url:
        yield url


@pytest.fixture
def cluster_url(cluster: servers.Server, cluster_admins: list[Redis]) -> Iterator[str]:
    """Where a new, empty store may be made in a Redis Cluster."""
    with _empty(cluster.url, cluster_admins) as url:
        yield url


_soaked: list[Soak] = []


@pytest.fixture(scope="session")
def _processes() -> Iterator[list[Process]]:
    processes = started(["sync", "sync", "async", "async"] * MANY)
    yield processes
    for process in processes:
        process.kill()


@pytest.fixture
def crew(_processes: list[Process]) -> list[Process]:
    """Processes that call a store, of both colours, each twice at least."""
    for i, process in enumerate(_processes):
        if process.ended():  # killed, as it took too long in another test
            [_processes[i]] = started([process.colour])
    return _processes


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> Soak:
    """Says how often a test does what it does, and keeps its figures."""
    _soaked.append(Soak(request.node.name))
    return _soaked[-1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    part = item.funcargs.get("soak")
    if report.failed and isinstance(part, Soak):
        report.sections.append(("seed", f"KV_SEED={part.seed} makes these calls again"))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for part in _soaked if SOAK else ():
        terminalreporter.write_line(str(part))
