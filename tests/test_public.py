"""What the package shows: its names, its types, the likeness of its two colours, and its documents."""

import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from programs import ROOT, python
from servers import Server
from waiting import wait_for

import kv
from kv import adapters
from kv.base import AsyncBaseStore, BaseStore

PAIRS = [
    (kv.Store, kv.AsyncStore),
    (BaseStore, AsyncBaseStore),
    (kv.MemoryStore, kv.AsyncMemoryStore),
    (kv.SQLiteStore, kv.AsyncSQLiteStore),
    (kv.LMDBStore, kv.AsyncLMDBStore),
    (kv.PostgresStore, kv.AsyncPostgresStore),
    (kv.RedisStore, kv.AsyncRedisStore),
]
TYPED = (kv.TypedStore, kv.AsyncTypedStore)
METHODS = sorted(name for name in vars(kv.Store) if not name.startswith("_"))


def test_the_top_level_exports_what_the_modules_declare() -> None:
    declared = {"Backend", "open", "open_async", "typed", "as_mapping"}
    for module in ("errors", "store", "expiry"):
        declared |= set(importlib.import_module(f"kv.{module}").__all__)
    declared |= {pair.__name__ for pairs in [*PAIRS[2:], TYPED] for pair in pairs}
    assert sorted(declared) == sorted(kv.__all__)
    for name in kv.__all__:
        assert getattr(kv, name) is not None
        assert name in dir(kv)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kv.nothing  # type: ignore[attr-defined]  # noqa: B018


ALONE = """
import importlib, os, sys
import asyncpg, click, cryptography, msgspec, opentelemetry, psycopg, redis.asyncio, rich  # what takes long, and is not ours
for name in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(name)
        os._exit(0)
    if os.wait()[1]:
        print(name)
"""


def test_every_module_can_be_imported_alone() -> None:
    names = [module.name for module in pkgutil.walk_packages(kv.__path__, "kv.")]
    failed = python(ALONE, *(name for name in names if not name.endswith("__main__")))
    assert failed.split() == []


def signature(function: object) -> list[tuple[str, object, object]]:
    """Names, kinds and defaults; the annotations are the type-checkers' to compare."""
    assert callable(function)
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("sync", "colour"), PAIRS, ids=lambda cls: cls.__name__)
def test_both_colours_have_the_same_methods(sync: type, colour: type) -> None:
    for name in METHODS:
        other = "aclose" if name == "close" else name
        assert signature(getattr(sync, name)) == signature(getattr(colour, other)), name
        assert signature(getattr(sync, name)) == signature(getattr(kv.Store, name)), name
    assert signature(sync) == signature(colour) or sync is kv.Store


def test_a_typed_store_has_the_methods_of_a_store() -> None:
    sync, colour = TYPED
    for name in [*METHODS, "require"]:
        own, other = signature(getattr(sync, name)), signature(getattr(colour, "aclose" if name == "close" else name))
        assert own == other, name
        if name != "require":
            promised = signature(getattr(kv.Store, name))
            assert [p for p in own if name != "update" or p[0] != "default"] == promised, name
    assert public(sync) == public(colour) == {*METHODS, "require"} - {"close"}
    assert signature(sync) == signature(colour)
    for cls in TYPED:
        assert all(inspect.getdoc(getattr(cls, name)) for name in public(cls))


@pytest.mark.parametrize("name", [name for name in adapters.__all__ if f"Async{name}" in adapters.__all__])
def test_both_colours_of_an_adapter_are_alike(name: str) -> None:
    sync, colour = getattr(adapters, name), getattr(adapters, f"Async{name}")
    assert public(sync) == public(colour)
    assert signature(sync) == signature(colour)
    for method in public(sync):
        if callable(getattr(sync, method)):
            assert signature(getattr(sync, method)) == signature(getattr(colour, method)), method
    assert inspect.getdoc(colour)


def test_every_adapter_is_exported_by_name() -> None:
    for name in adapters.__all__:
        assert getattr(adapters, name) is not None
        assert name in dir(adapters)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        adapters.nothing  # type: ignore[attr-defined]  # noqa: B018


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")} - {"close", "aclose"}


@pytest.mark.parametrize(("sync", "colour"), PAIRS, ids=lambda cls: cls.__name__)
def test_neither_colour_can_more_than_the_other(sync: type, colour: type) -> None:
    assert public(sync) == public(colour)


def test_every_promise_is_written_where_it_is_declared() -> None:
    for name in METHODS:
        assert inspect.getdoc(getattr(kv.Store, name)), name
        if name != "close":
            assert f"See `Store.{name}`" in str(inspect.getdoc(getattr(kv.AsyncStore, name)))
    for cls in (*PAIRS[2], *PAIRS[3], *PAIRS[4]):
        for name in public(cls):
            assert inspect.getdoc(getattr(cls, name)), (cls, name)


def test_open_gives_what_the_protocols_say() -> None:
    assert typing.get_type_hints(kv.open, {"Store": kv.Store})["return"] is kv.Store
    assert typing.get_type_hints(kv.open_async, {"AsyncStore": kv.AsyncStore})["return"] is kv.AsyncStore


# documents


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_every_block_of_the_readme_is_of_a_kind_that_is_run() -> None:
    languages = re.findall(r"^```(\w+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(languages) == {"sh", "python", "console", "crontab", "sql"}


@pytest.fixture
def database(admin: Any, postgres: Server, table: str) -> Iterator[str]:
    """The URL of a new, empty database."""
    admin.execute(f"CREATE DATABASE {table}")
    yield f"{postgres.url.rpartition('/')[0]}/{table}"
    admin.execute(f"DROP DATABASE {table}")


@pytest.mark.parametrize("block", blocks("README.md", "python"))
def test_the_python_of_the_readme_runs(block: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "postgresql://localhost/app" in block:
        block = block.replace("postgresql://localhost/app", request.getfixturevalue("database"))
    if "redis://localhost:6379/0" in block:
        block = block.replace("redis://localhost:6379/0", request.getfixturevalue("redis_url"))
    # what a comment behind a call says it gives is what it gives
    checked = re.sub(
        r"^( *)(.*\S) +# (b\".*?\"|\[.*?\]|\d+|True)(?=[; ]|$).*$", r"\1assert \2 == \3", block, flags=re.MULTILINE
    )
    assert checked.count("assert") > block.count("assert") or "async" in block
    python(f"import os, sys\nos.chdir(sys.argv[1])\n{checked}", tmp_path)


def test_the_two_commands_are_what_ci_runs() -> None:
    (commands,) = blocks("README.md", "sh")
    assert commands.split("\n") == ["make demo", "make test", ""]
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "make demo" in ci
    assert ci[-1] == "make test"


def shell(command: str, folder: Path, **environment: str) -> str:
    bin_folder = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(folder), **environment}
    env.pop("KV_URL", None)
    env.pop("XDG_DATA_HOME", None)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout + (done.stderr if done.returncode else "")


def test_the_console_of_the_readme_prints_what_it_says(tmp_path: Path) -> None:
    assert shutil.which("kv", path=str(Path(sys.executable).parent)), "the program is not installed beside this Python"
    (block,) = blocks("README.md", "console")
    script = "\n".join(line[2:] for line in block.splitlines() if line.startswith("$ "))
    said = "".join(f"{line}\n" for line in block.splitlines() if not line.startswith("$ "))
    # one shell runs it all, as a reader's would; a value shown on a terminal ends its line, one in a pipe does not
    assert shell(script, tmp_path).replace("hello there", "hello there\n") == said


def test_the_crontab_lines_of_the_readme_work(tmp_path: Path, database: str) -> None:
    kv.SQLiteStore(tmp_path / "app.db").close()
    kv.PostgresStore(database).close()
    for line in blocks("README.md", "crontab"):
        command = line.split(maxsplit=5)[5].strip().replace("/var/lib/app", str(tmp_path))
        command = command.replace("postgresql://kv@localhost/app", database)
        assert "0" in shell(f"{command}; echo exit $?", tmp_path)
        assert shell(f"{command} >/dev/null; echo exit $?", tmp_path) == "exit 0\n"


def test_the_statement_for_pg_cron_removes_what_has_expired(database: str) -> None:
    (block,) = blocks("README.md", "sql")
    statement = block.split("$$")[1]
    with kv.PostgresStore(database) as store, psycopg.connect(database, autocommit=True) as connection:
        store.set_many({"stays": b"v", "long": b"v"})
        store.expire("long", 3_600)
        store.set("gone", b"v", ttl=0.001)
        wait_for(lambda: store.count() == 2)
        assert connection.execute(statement).rowcount == 1
        assert store.keys() == ["long", "stays"]
        assert store.stats().expired == 0


def test_every_path_that_the_documents_name_is_there() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        for path in re.findall(r"`((?:kv|tests|benchmarks|\.ci)/[\w./]*)`", (ROOT / document).read_text()):
            assert (ROOT / path).exists(), path
        for path in re.findall(r"\]\((?!http)([^) ]+)[) ]", (ROOT / document).read_text()):
            assert (ROOT / path).exists(), path


def test_no_machine_and_no_registry_is_named_in_the_project() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    for name in listed.stdout.split():
        if name != "tests/test_public.py" and (ROOT / name).is_file():
            text = (ROOT / name).read_text(errors="replace")
            for word in ("files.pythonhosted", "index-url", str(ROOT) + "/"):
                assert word not in text, (name, word)


def test_the_tests_that_the_readme_points_to_are_there() -> None:
    pointed = re.findall(r'\]\(([\w/]+\.py) "(\w+)"\)', (ROOT / "README.md").read_text())
    assert len(pointed) > 20
    for file, name in pointed:
        assert f"def {name}(" in (ROOT / file).read_text(), (file, name)
