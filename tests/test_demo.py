"""`kv demo`, as a user runs it, and over stores that do not keep their word."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import PROGRAM

import kv
from kv.cli import demo
from kv.cli.where import Place

pytestmark = pytest.mark.usefixtures("home")


def program(*args: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*PROGRAM, *args], capture_output=True, text=True, encoding="utf-8", check=False)
    assert "Traceback" not in done.stderr
    return done


def next_commands(text: str) -> list[list[str]]:
    """The commands that the demo proposes, as they are to be run here."""
    lines = text.partition("Try next:\n")[2].splitlines()
    commands = [shlex.split(line) for line in lines]
    assert all(command[0] == "kv" for command in commands)
    return [[*PROGRAM, *command[1:]] for command in commands]


def test_the_demo_and_what_it_proposes_to_try(tmp_path: Path) -> None:
    with kv.open("sqlite:///app.db") as store:
        store.set("mine", b"1")
        store.namespace("demo").set("old", b"from an earlier demo")
        store.namespace("demo").namespace("inside").set("k", b"not the demo's")
        store.namespace("demo2").set("k", b"not the demo's")
    done = program("demo", "sqlite:///app.db")
    assert (done.returncode, done.stderr) == (0, "")
    steps = re.findall(r"^ ([a-z]+(?: up)?) ", done.stdout, re.MULTILINE)
    assert steps == ["step", "clear", "load", "get", "list", "list", "increment", "expire", "clean up"]
    assert "4 processes at once" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    with kv.open("sqlite:///app.db") as store:
        assert store.get("mine") == b"1"
        assert (
            store.namespace("demo2").get("k")
            == store.namespace("demo").namespace("inside").get("k")
            == b"not the demo's"
        )
        mine = store.namespace("demo")
        assert mine.get("old") is None
        assert mine.count("char:") == mine.count("name:") > 33_000
        assert mine.count("soon:") == 0
        assert sum(int(value) for _, value in mine.scan("count:")) == mine.count("char:")
    commands = next_commands(done.stdout)
    assert len(commands) >= 4
    outputs = []
    for command in commands:
        ran = subprocess.run(command, capture_output=True, check=False)
        assert ran.returncode == 0
        outputs.append(ran.stdout.decode())
    assert outputs[0] == "2603"
    assert '"name": "SNOWMAN"' in outputs[1]
    assert "name:SNOWMAN\n" in outputs[2]
    assert "count:Lu\t" in outputs[3]
    assert (tmp_path / "demo.jsonl").exists()


def test_what_it_proposes_can_be_typed_where_the_program_is_not_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(sys.executable).parent
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    done = subprocess.run([folder / "kv", "demo", "sqlite:///app.db"], capture_output=True, text=True, check=True)
    command = done.stdout.partition("Try next:\n")[2].splitlines()[0]
    assert shlex.split(command)[0] == os.path.relpath(folder / "kv")
    assert subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout == "2603"


def test_the_demo_in_the_users_own_store(home: Path) -> None:
    done = program("-n", "my things", "demo")
    assert done.returncode == 0
    assert done.stderr.startswith(f"kv: made sqlite:///{home}")
    assert done.stderr.count("\n") == 1
    command = next_commands(done.stdout)[0]
    assert command[len(PROGRAM) :] == ["--namespace", "my things", "--namespace", "demo", "get", "name:SNOWMAN"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"2603"
    again = program("-n", "my things", "demo")
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.parametrize("url", ["memory://", "sqlite://"])
def test_the_demo_in_memory(url: str) -> None:
    done = program("demo", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 threads at once" in done.stdout
    assert f"{url} ends with this process" in done.stdout


def test_the_demo_by_a_script(tmp_path: Path) -> None:
    # as pip makes it: the processes that count must not run it again
    (tmp_path / "kv-script").write_text(
        "import sys\nfrom kv.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    environ = {**os.environ, "KV_URL": "sqlite:///env.db", "PYTHONPATH": str(Path(kv.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "kv-script", "demo"], capture_output=True, text=True, env=environ, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "  kv --namespace demo get name:SNOWMAN\n" in done.stdout


def test_the_characters_are_those_of_unicode() -> None:
    known = demo.characters()
    assert 33_000 < len(known) < 45_000
    assert known["0041"] == {
        "char": "A",
        "name": "LATIN CAPITAL LETTER A",
        "category": "Lu",
        "bidirectional": "L",
        "combining": 0,
        "mirrored": False,
        "width": "Na",
    }
    assert known["00BD"]["numeric"] == 0.5
    assert known["0663"]["decimal"] == 3
    assert known["0028"]["mirrored"]
    assert known["1F600"]["name"] == "GRINNING FACE"
    for left_out in ("4E00", "AC00", "D800", "E000", "0378", "F900"):
        assert left_out not in known


class LosesIncrements(kv.MemoryStore):
    def increment(self, key: str, amount: int = 1, **options: Any) -> int:
        return super().increment(key, amount, **options) if amount % 7 else 0


class ListsTooMuch(kv.MemoryStore):
    def keys(self, prefix: str = "", **options: Any) -> list[str]:
        return super().keys(prefix[:-1], **options)


class ForgetsDeadlines(kv.MemoryStore):
    def set_many(self, items: Any, *, ttl: Any = None) -> None:
        super().set_many(items)


class ExpiresAtOnce(kv.MemoryStore):
    def set_many(self, items: Any, *, ttl: Any = None) -> None:
        super().set_many([] if ttl else items)


class StoresHalf(kv.MemoryStore):
    def set_many(self, items: Any, *, ttl: Any = None) -> None:
        super().set_many(list(items)[::2], ttl=ttl)


class MixesUp(kv.MemoryStore):
    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key.lower() if "SNOW" in key else key.replace("0041", "0042"), default)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (LosesIncrements, "the counted sums"),
        (ListsTooMuch, "the keys by prefix"),
        (ForgetsDeadlines, "says that it has inf s left"),
        (ExpiresAtOnce, "was missing before that"),
        (StoresHalf, "the store counts"),
        (MixesUp, "the character 0041|the code of"),
    ],
)
def test_a_store_that_does_not_keep_its_word_is_caught(broken: type[kv.MemoryStore], message: str) -> None:
    with broken() as store, pytest.raises(demo.Wrong, match=message):
        demo.Demo(Place("memory://", ()), store, None).run()


def test_a_worker_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(demo.Wrong, match=r"a counting worker failed: .*does not exist"):
        demo._in_processes(Place(f"sqlite:///{tmp_path}/missing/app.db", ()))


def test_a_password_is_not_shown() -> None:
    text = demo._next(Place("postgresql://me:secret@host/db", ("demo",)), shared=True)
    assert "secret" not in text
    assert "KV_URL set to postgresql://me:***@host/db" in text
    assert "  kv --namespace demo get name:SNOWMAN\n" in text
    text = demo._next(Place("sqlite:///my file.db", ("demo",)), shared=True)
    assert "  kv --url 'sqlite:///my file.db' --namespace demo " in text
