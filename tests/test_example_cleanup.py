"""`examples/cleanup.py`: silent where all is well, one line for each store where it is not."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from programs import pythons
from scripts import EXAMPLES, example, loaded
from sqlitefiles import raw
from waiting import wait_for

import kv

if TYPE_CHECKING:
    from pathlib import Path

    import servers
    from conftest import Admin


def expired(url: str, number: int) -> None:
    """Make a store with so many expired entries, and one that lives."""
    with kv.open(url) as store:
        store.set("lives", b"v")
        store.set_many({f"{{k}}{n}": b"v" for n in range(number)}, ttl=0.001)
        wait_for(lambda: store.count() == 1)


def left(url: str) -> int:
    """How many expired entries are there yet; fails where the living one is not."""
    with kv.open(url) as store:
        figures = store.stats()
    assert figures.keys == 1
    return figures.expired


def test_all_stores_are_cleaned_and_nothing_is_said(shared: str, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    expired(shared, 50)
    expired(other, 70)
    assert example("cleanup.py", shared, other) == (0, "", "")
    assert (left(shared), left(other)) == (0, 0)
    assert example("cleanup.py", shared, "--verbose").out.endswith(": removed 0\n")


def test_what_is_wrong_with_one_store_is_one_line_and_does_not_stop_the_others(
    tmp_path: Path, postgres: servers.Server
) -> None:
    good, damaged, missing = (tmp_path / name for name in ("good.db", "damaged.db", "missing.db"))
    expired(f"sqlite:///{good}", 30)
    damaged.write_bytes(b"not a store" * 1000)
    away = "postgresql://app:hunter2@127.0.0.1:1/app"
    table = f"{postgres.url}?table=kv_is_not_there"
    said = example("cleanup.py", f"sqlite:///{damaged}", f"sqlite:///{missing}", away, table, f"sqlite:///{good}")
    assert said.code == 1
    assert said.out == ""
    lines = said.err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        f"sqlite:///{damaged}",
        f"sqlite:///{missing}",
        away.replace("hunter2", "***"),
        kv.url.hide(table),
    ]
    assert "no such file" in lines[1]
    assert "hunter2" not in said.err
    assert left(f"sqlite:///{good}") == 0
    assert not missing.exists()
    assert damaged.read_bytes() == b"not a store" * 1000


def test_no_table_is_made(postgres_url: str, table: str, admin: Admin) -> None:
    assert example("cleanup.py", postgres_url).code == 1
    assert admin.execute("SELECT to_regclass(%s)", (table,)).fetchone() == (None,)


def test_without_a_url_it_is_the_one_of_the_environment(path: Path) -> None:
    expired(f"sqlite:///{path}", 5)
    assert example("cleanup.py", KV_URL=f"sqlite:///{path}") == (0, "", "")
    assert left(f"sqlite:///{path}") == 0
    said = example("cleanup.py", KV_URL=f"sqlite:///{path}.not")
    assert said[:2] == (1, "")
    assert said.err.startswith("KV_URL: ")
    assert "KV_URL is not set" in example("cleanup.py").err


def test_more_than_the_limit_stays_for_the_next_time_and_is_said(path: Path) -> None:
    url = f"sqlite:///{path}"
    expired(url, 50)
    said = example("cleanup.py", url, "--limit", 20)
    assert said == (1, "", f"{url}: removed 20, and more may have expired; run it more often\n")
    assert left(url) == 30
    assert example("cleanup.py", url, "--limit", 31, "--verbose") == (0, f"{url}: removed 30\n", "")
    for wrong in ("--limit", "--seconds"):
        assert example("cleanup.py", url, wrong, 0).code == 2


def test_each_store_has_so_many_seconds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cleanup = loaded("cleanup.py")
    monkeypatch.setattr(cleanup, "BATCH", 10)
    expired(f"sqlite:///{path}", 95)
    now = 1000.0

    def clock() -> float:
        nonlocal now
        now += 1
        return now

    with kv.open(f"sqlite:///{path}") as store:
        assert cleanup.clean(store, seconds=3, clock=clock) == (30, False)
        assert cleanup.clean(store, seconds=3, limit=15, clock=clock) == (15, False)
        assert cleanup.clean(store, seconds=60, clock=clock) == (50, True)
        assert cleanup.clean(store, seconds=60, clock=clock) == (0, True)
    assert left(f"sqlite:///{path}") == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])  # the others remove by themselves
def test_several_may_run_at_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/app.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    expired(url, 3_000)
    said = pythons(
        """
        sys.path.insert(0, sys.argv[2])
        import cleanup, kv
        cleanup.BATCH = 100
        with kv.open(sys.argv[1]) as store:
            print(cleanup.clean(store, seconds=60).removed)
        """,
        url,
        EXAMPLES,
    )
    assert sum(map(int, said)) == 3_000  # each entry was removed by one of them
    assert left(url) == 0


def test_one_that_is_cut_off_between_two_batches_is_completed_by_the_next(path: Path) -> None:
    expired(f"sqlite:///{path}", 100)

    class Killed(BaseException):
        pass

    times = iter([0.0])

    def clock() -> float:
        for now in times:
            return now
        raise Killed

    cleanup = loaded("cleanup.py")
    cleanup.BATCH = 10
    with closing(kv.open(f"sqlite:///{path}")) as store, pytest.raises(Killed):
        cleanup.clean(store, seconds=60, clock=clock)
    assert left(f"sqlite:///{path}") == 90
    assert raw(path, "PRAGMA integrity_check") == [("ok",)]
    assert example("cleanup.py", f"sqlite:///{path}") == (0, "", "")
