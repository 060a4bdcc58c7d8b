"""The suite can fail: each broken store is caught by the check that is there for it, and each check catches one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from broken import BROKEN
from tiny import AsyncTinyStore, TinyStore

from kv.errors import KVError
from kv.testing import Conformance, ProcessConformance, checks, failures
from kv.testing.basics import Basics
from kv.testing.processes import Process
from kv.testing.suite import Suite, bounded, gone

if TYPE_CHECKING:
    from pathlib import Path

    from kv.store import AsyncStore


class Impatient(Conformance):
    timeout = 1.0


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_store_is_caught(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store, check, hangs = BROKEN[name]
    monkeypatch.setattr("kv.testing.suite.PATIENCE", 0.5)
    with pytest.raises((AssertionError, KVError)) as caught:
        checks(Impatient if hangs else Conformance)[check](store())
    assert str(caught.value).startswith("not done after") is hangs
    assert capfd.readouterr() == ("", "")


def test_every_check_catches_a_broken_store() -> None:
    assert {check for _, check, _ in BROKEN.values()} == {*checks()}


@pytest.mark.parametrize("store", [TinyStore, AsyncTinyStore])
def test_a_right_store_fails_nothing(store: type[Any]) -> None:
    assert failures(store) == {}


def test_failures_gives_what_was_raised() -> None:
    class OneFault(TinyStore):
        def size(self, key: str) -> int | None:
            return 1 if super().size(key) else None

    found = failures(OneFault, Basics)
    assert {"test_exists_and_size_describe_the_entry", "test_the_empty_value_is_a_value"} <= {*found}
    assert "test_get_gives_what_was_set" not in found
    assert {type(error) for error in found.values()} == {AssertionError}


def test_the_checks_are_given_a_view_inside_the_store() -> None:
    seen = []

    class Nested(Suite):
        view = ("a", "b")

        async def test_where(self, store: AsyncStore) -> None:
            await store.set("key", b"1")
            seen.append(await self.root.namespace("a").namespace("b").get("key"))

    for store in (TinyStore(), AsyncTinyStore()):
        checks(Nested)["test_where"](store)
    assert seen == [b"1", b"1"]


def test_a_check_closes_the_store_that_it_was_given() -> None:
    store = TinyStore()
    checks()["test_get_gives_what_was_set"](store)
    assert store._table.closed


def test_a_check_that_hangs_fails_and_says_where() -> None:
    class Hanging(Suite):
        timeout = 0.2

        async def test_hang(self, store: AsyncStore) -> None:
            await store.update("key", lambda _: wait_here())

    def wait_here() -> bytes:
        threading.Event().wait(5)
        return b""

    with pytest.raises(AssertionError, match=r"(?s)not done after 0\.2 s.*wait_here"):
        checks(Hanging)["test_hang"](TinyStore())


def test_an_entry_that_never_expires_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv.testing.suite.PATIENCE", 0.05)

    class Waiting(Suite):
        async def test_wait(self, store: AsyncStore) -> None:
            await store.set("key", b"1")
            await gone(store, "key")

    with pytest.raises(AssertionError, match="have not expired"):
        checks(Waiting)["test_wait"](TinyStore())


def test_an_error_comes_out_of_the_loop_as_it_is() -> None:
    error = KeyboardInterrupt("mine")

    async def main() -> None:
        raise error

    with pytest.raises(KeyboardInterrupt) as caught:
        bounded(main, 5)
    assert caught.value is error


def test_the_suite_needs_no_pytest() -> None:
    code = "import sys, kv.testing; assert kv.testing.checks(); assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


SHORT_FILE = """
import pytest
from kv.testing import Conformance
from tiny import TinyStore

class Forgetful(TinyStore):
    def size(self, key):
        return None

class TestTiny(Conformance):
    @pytest.fixture
    def store(self):
        return TinyStore()

class TestForgetful(TestTiny):
    @pytest.fixture
    def store(self):
        return Forgetful()
"""


def test_a_backend_of_another_package_is_tested_in_one_short_file(tmp_path: Path) -> None:
    (tmp_path / "test_tiny.py").write_text(SHORT_FILE)
    command = [sys.executable, "-m", "pytest", "-k", "exists_and_size", "-p", "no:cacheprovider", "-v"]
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert "TestTiny::test_exists_and_size_describe_the_entry PASSED" in done.stdout
    assert "TestForgetful::test_exists_and_size_describe_the_entry FAILED" in done.stdout
    assert "assert (True, None) == (True, 0)" in done.stdout  # pytest shows the values


# processes

BROKEN_IN_PROCESSES = {
    "test_increments_of_processes_lose_nothing": """
        def increment(self, key, amount=1, **ttl):
            total = int(self.get(key, b"0")) + amount
            self.set(key, b"%d" % total)
            return total
    """,
    "test_updates_of_processes_lose_nothing": """
        def update(self, key, fn, **ttl):
            new = fn(self.get(key))
            return super().update(key, lambda _: new, **ttl)
    """,
    "test_updates_of_many_keys_by_processes_lose_nothing": """
        def update_many(self, keys, fn, **ttl):
            new = fn(self.get_many(keys))
            return super().update_many(keys, lambda _: new, **ttl)
    """,
    "test_one_process_wins_each_add": """
        def add(self, key, value, *, ttl=None):
            missing = not self.exists(key)
            time.sleep(0.002)
            self.set(key, value, ttl=ttl)
            return missing
    """,
    "test_one_process_gets_each_pop": """
        def pop(self, key, default=None):
            value = self.get(key, default)
            time.sleep(0.002)
            self.delete(key)
            return value
    """,
    "test_one_process_wins_each_compare_and_set": """
        def compare_and_set(self, key, expected, value, **ttl):
            same = self.get(key) == expected
            time.sleep(0.002)
            if same:
                self.set(key, value)
            return same
    """,
    "test_no_process_sees_half_of_set_many": """
        def set_many(self, items, *, ttl=None):
            for key, value in dict(items).items():
                self.set(key, value, ttl=ttl)
                time.sleep(0.002)
    """,
    "test_no_process_sees_half_of_update_many": """
        def get_many(self, keys):
            found = {}
            for key in keys:
                if (value := self.get(key)) is not None:
                    found[key] = value
                time.sleep(0.001)
            return found
    """,
    "test_no_two_processes_wait_for_each_other_forever": """
        def delete_many(self, keys):
            time.sleep(60)
    """,
    "test_many_processes_open_a_new_store_at_once": """
        def __init__(self, path, **options):
            time.sleep(0.1)
            if os.path.exists(path):
                os.remove(path)
            super().__init__(path, **options)
    """,
    "test_a_process_killed_inside_an_update_leaves_the_old_value_and_no_lock": """
        def update(self, key, fn, **ttl):
            try:
                os.mkdir(self._db.path + ".lock")
            except FileExistsError:
                raise RuntimeError("locked") from None
            new = super().update(key, fn, **ttl)
            os.rmdir(self._db.path + ".lock")
            return new
    """,
    "test_a_process_killed_among_its_transfers_leaves_no_half_of_one": """
        def update_many(self, keys, fn, **ttl):
            new = fn(self.get_many(keys))
            for key, value in new.items():
                self.set(key, value)
                time.sleep(0.05)
            return new
    """,
}

MODULE = """
import os, time
from kv import Backend, SQLiteStore

class Broken(SQLiteStore):
{methods}

BACKEND = Backend(Broken, None)
"""


@pytest.mark.parametrize("check", BROKEN_IN_PROCESSES)
def test_a_store_that_is_broken_between_processes_is_caught(
    check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Processes(ProcessConformance):
        colours = ("sync",)
        processes = 4
        timeout = 3.0 if check == "test_no_two_processes_wait_for_each_other_forever" else 60.0

    # a package of somebody else, as the registry of schemes and the processes find it
    (tmp_path / "broken_store.py").write_text(MODULE.format(methods=BROKEN_IN_PROCESSES[check]))
    info = tmp_path / "broken_store-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-store\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kv.backends]\nbroken = broken_store:BACKEND\n")
    monkeypatch.syspath_prepend(tmp_path)

    processes = Processes()
    processes.setup_class()
    try:
        with pytest.raises(AssertionError) as caught:
            getattr(processes, check)(f"broken:///{tmp_path}/kv.db")
        assert ("took more than" in str(caught.value)) is (check == "test_no_two_processes_wait_for_each_other_forever")
    finally:
        processes.teardown_class()


def test_every_check_of_processes_catches_a_broken_store() -> None:
    assert {*BROKEN_IN_PROCESSES} == {*checks(ProcessConformance)}


def test_a_process_that_ended_is_started_again(tmp_path: Path) -> None:
    class Two(ProcessConformance):
        processes = 2

    two = Two()
    two.setup_class()
    try:
        two._crew[0].kill()
        two.test_increments_of_processes_lose_nothing(f"sqlite:///{tmp_path}/kv.db")
    finally:
        two.teardown_class()


def test_an_error_in_a_process_is_shown(tmp_path: Path) -> None:
    process = Process("sync")
    try:
        process.prepare(f"sqlite:///{tmp_path}/nowhere/kv.db", "gets", opening=False, keys=[])
        with pytest.raises(AssertionError, match=r"(?s)Traceback.*nowhere"):
            process.hear(60)
    finally:
        process.kill()
