"""Opening by URL: schemes, options, the registry, and what is said when something is wrong."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kv
from kv import ConfigError
from kv.url import hide


def test_sqlite_urls_follow_sqlalchemy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url, file in [
        ("sqlite:///app.db", "app.db"),
        (f"sqlite:///{tmp_path}/absolute.db", "absolute.db"),
        ("sqlite:///with%20space%3F.db", "with space?.db"),
        ("SQLITE:///upper.db", "upper.db"),
        ("sqlite:///UPPER.db?durability=normal", "UPPER.db"),
    ]:
        with kv.open(url) as store:
            store.set("k", b"v")
        assert (tmp_path / file).exists()
    before = sorted(tmp_path.iterdir())
    for url in ("sqlite://", "sqlite:///:memory:"):
        with kv.open(url) as store:
            store.set("k", b"v")
            assert store.get("k") == b"v"
    assert sorted(tmp_path.iterdir()) == before


def test_each_memory_url_is_a_new_store() -> None:
    with kv.open("memory://") as one, kv.open("memory://") as other:
        one.set("k", b"v")
        assert other.get("k") is None


def test_a_keyword_wins_over_the_query() -> None:
    with kv.open("memory://?max_entries=1", max_entries=2) as store:
        store.set_many({"a": b"", "b": b"", "c": b""})
        assert store.keys() == ["b", "c"]


def test_namespaces_come_from_the_url_and_nest_when_repeated(tmp_path: Path) -> None:
    file = f"sqlite:///{tmp_path}/a.db"
    with kv.open(f"{file}?namespace=a&namespace=b%3Ac") as store:
        store.set("k", b"v")
    with kv.open(file) as root:
        assert root.keys() == []
        assert root.namespace("a").namespace("b:c").get("k") == b"v"
    with kv.open(file, namespace=("a", "b:c")) as store:
        assert store.get("k") == b"v"
    with kv.open(file, namespace="a") as store:
        assert store.namespaces() == ["b:c"]
        store.close()
        with pytest.raises(kv.StoreClosed):  # it is no view: it owns what it has opened
            store.get("k")


def test_kv_url_is_read_when_there_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KV_URL", "memory://")
    with kv.open() as store:
        assert repr(store) == "<MemoryStore>"
    monkeypatch.delenv("KV_URL")
    with pytest.raises(ConfigError, match="KV_URL is not set"):
        kv.open()
    monkeypatch.setenv("KV_URL", "app.db")
    with pytest.raises(ConfigError, match=r"KV_URL is 'app\.db', which is not a URL of a store"):
        kv.open()


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("", {}, "the URL is empty; for example memory://"),
        (5, {}, "a str, not int"),
        ("app.db", {}, "'app.db' is not a URL of a store; for example memory://, sqlite:///app.db"),
        ("sqlite:app.db", {}, "not a URL"),
        (
            "sqllite:///app.db",
            {},
            "unknown scheme 'sqllite'. Did you mean 'sqlite'? Known: lmdb, memory, postgres, postgresql, redis, redis+cluster, rediss, rediss+cluster, sqlite, unix",
        ),
        ("mongodb://u:pw@h", {}, "unknown scheme 'mongodb'. Known: lmdb, memory"),
        ("sqlite://app.db", {}, "three slashes, sqlite:///app.db"),
        ("memory://here", {}, "neither"),
        ("memory://u:pw@h", {}, "memory://u:***@h names a host"),
        ("sqlite://u:pw@h/app.db", {}, "sqlite://u:***@h/app.db: a relative path takes three slashes"),
        ("postgres:/u:pw@h/db", {}, "not a URL"),
        ("u:pw@h/db", {}, "'u:***@h/db' is not a URL"),
        ("memory://?namespace=%ff", {}, "not UTF-8, percent-encoded"),
        ("sqlite:///a.db?lock_timeout=1e10", {}, "positive number of seconds, 100,000,000 at most"),
        ("memory://", {"cleanup_interval": 10**400}, "positive number of seconds"),
        ("memory://?max_entires=5", {}, "unknown option of memory:// 'max_entires'. Did you mean 'max_entries'?"),
        (
            "memory://",
            {"table": "x"},
            "unknown option of memory:// 'table'. Known: cleanup_interval, compress, ",
        ),
        ("memory://?max_entries=many", {}, "option max_entries='many' for memory://: expected a positive whole number"),
        ("memory://?max_entries=-1", {}, "positive whole number"),
        ("memory://?cleanup_interval=-1", {}, "positive number of seconds"),
        ("memory://?cleanup_interval=nan", {}, "positive number of seconds"),
        ("memory://", {"max_entries": True}, "positive whole number"),
        ("memory://?max_entries=1&max_entries=2", {}, "stands twice"),
        ("sqlite:///a.db?durability=fast", {}, "expected full or normal"),
        ("sqlite:///a.db?lock_timeout=0", {}, "positive number of seconds"),
        ("sqlite:///", {}, None),
    ],
)
def test_a_url_that_is_wrong_says_what_would_be_right(
    url: Any, options: dict[str, object], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KV_URL", raising=False)
    for opened in (kv.open, kv.open_async):
        if message is None:
            store: Any = opened(url, **options)
            if opened is kv.open:
                store.close()
            continue
        with pytest.raises(ConfigError) as raised:
            opened(url, **options)
        assert message in str(raised.value)
        assert "pw" not in str(raised.value)


def test_off_is_off() -> None:
    for word in ("0", "off", "none", "never"):
        kv.open(f"memory://?max_entries={word}&cleanup_interval={word}").close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:s3cret@h:5432/db?table=t", "postgresql://u:***@h:5432/db?table=t"),
        ("postgresql://u:p@ss/w:rd@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:/s3cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u@h/db?options=a@b", "postgresql://u@h/db?options=a@b"),
        ("postgresql:/u:s3cret@h/db", "postgresql:/u:***@h/db"),
        ("u:s3cret@h/db", "u:***@h/db"),
        ("redis://:s3cret@h/0", "redis://:***@h/0"),
        ("postgresql://h/db?password=s3cret&user=u", "postgresql://h/db?password=***&user=u"),
        ("rediss://h/0?ssl_keyfile_PASSWORD=a&x=b", "rediss://h/0?ssl_keyfile_PASSWORD=***&x=b"),
        ("sqlite:///a@b:c.db", "sqlite:///a@b:c.db"),
        ("postgresql://u:s3?cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:s3#cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://h:5432/db?options=a@b", "postgresql://h:5432/db?options=a@b"),
        ("postgresql://h:5432,[::1]:5433/db?options=a@b", "postgresql://h:5432,[::1]:5433/db?options=a@b"),
        ("postgresql://h:5432?options=a@b", "postgresql://h:5432?options=a@b"),
        ("postgresql://u:1?s3cret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:s3?x=cret@h/db?a=b", "postgresql://u:***@h/db?a=b"),
        ("postgresql://u\n[:s3\ncret@h/db", "postgresql://u\n[:***@h/db"),
        ("postgresql://u:s3cret", "postgresql://u:***"),  # the host was forgotten
        ("redis://:s3cret/0", "redis://:***/0"),
        ("redis+cluster://a:6379,b:6379?socket_timeout=5", "redis+cluster://a:6379,b:6379?socket_timeout=5"),
        ("redis+cluster://1,u::1,h:2?s3@cret@h", "redis+cluster://1,u:***@h"),
        ("host=h port=5 password=s3cret user=u", "host=h port=5 password=*** user=u"),
        (r"host=h PassWord = 's3 c\'ret' user=u", "host=h PassWord = *** user=u"),
        ("host=h password='s3'cret port=5", "host=h password=*** port=5"),
        ("sqlite:///a:b.db", "sqlite:///a:b.db"),
        ("C:\\app.db", "C:\\app.db"),
    ],
)
def test_passwords_are_hidden(url: str, shown: str) -> None:
    assert hide(url) == shown


def test_another_package_adds_a_scheme(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # a real distribution, found by importlib.metadata on sys.path, as an installed package is
    (tmp_path / "third_kv.py").write_text("import kv\nBACKEND = kv.Backend(kv.MemoryStore, None)\n")
    info = tmp_path / "third_kv-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-kv\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kv.backends]\nthird = third_kv:BACKEND\nfourth = fourth_driver:B\n")
    monkeypatch.syspath_prepend(tmp_path)
    with kv.open("third://?max_entries=3") as store:
        store.set("k", b"v")
        assert store.get("k") == b"v"
    with pytest.raises(ConfigError, match="third:// has no async store"):
        kv.open_async("third://")
    with pytest.raises(ConfigError, match=r"fourth:// is opened by third-kv.*: No module named 'fourth_driver'\. Its"):
        kv.open("fourth://")
    with pytest.raises(ConfigError, match=r"Known: fourth, lmdb, memory, postgres, .*, redis, .*, third"):
        kv.open("thrd+x://")


def test_open_async_checks_at_once_and_connects_later(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown option"):
        kv.open_async("sqlite:///a.db?sync=off")
    store = kv.open_async(f"sqlite:///{tmp_path}/later.db")
    assert not (tmp_path / "later.db").exists()

    async def main() -> None:
        async with store:
            assert (tmp_path / "later.db").exists()

    asyncio.run(main())


def test_importing_kv_loads_no_driver_and_nothing_outside_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import kv; new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'kv'}), 'sqlite3' in sys.modules, 'asyncio' in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=Path(kv.__file__).parents[1]
    )
    assert out.stdout.strip() == "[] False False"
