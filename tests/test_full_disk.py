"""A disk that is full, under the stores that keep their file on it."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from programs import python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def small_disk(mount: Path) -> Iterator[None]:
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


FILL = """
    import os, sys, kv
    with open(os.path.dirname(sys.argv[1]) + "/ballast", "wb") as file:
        file.write(bytes(600_000))
    with kv.open(f"{sys.argv[2]}:///{sys.argv[1]}") as store:
        store.set("kept", b"v")
        for i in range(10_000):
            try:
                store.set(f"k{i}", b"x" * 10_000)
            except kv.Unavailable as e:
                print(e)
                break
        assert store.get("kept") == b"v" and store.get(f"k{i}") is None and store.verify() == []
        for call in (lambda: store.update("kept", lambda v: b"y" * 900_000),
                     lambda: store.set_many({f"m{i}": b"z" * 10_000 for i in range(100)})):
            try:
                call()
            except kv.Unavailable:
                pass
            else:
                raise AssertionError
        assert store.get("kept") == b"v" and store.count("m") == 0
        os.remove(os.path.dirname(sys.argv[1]) + "/ballast")
        store.clear("k")
        store.compact()
        store.set("again", b"v")
        print(store.count(), store.verify())
"""


def on_a_small_disk(code: str, tmp_path: Path, scheme: str) -> str:
    if os.geteuid():  # a mount of one's own needs a namespace of one's own
        inside = f'mkdir {tmp_path}/m && mount -t tmpfs -o size=1m tmpfs {tmp_path}/m && exec "$0" "$@"'
        return python(code, f"{tmp_path}/m/app.db", scheme, wrapper=("unshare", "-rm", "sh", "-c", inside))
    with small_disk(tmp_path / "m"):
        return python(code, tmp_path / "m" / "app.db", scheme)


@pytest.mark.parametrize(("scheme", "says"), [("sqlite", "the disk is full"), ("lmdb", "the disk failed or is full")])
def test_a_full_disk_takes_nothing_and_loses_nothing(tmp_path: Path, scheme: str, says: str) -> None:
    out = on_a_small_disk(FILL, tmp_path, scheme)
    assert says in out
    assert "nothing was written" in out
    assert out.endswith(" []\n")


@pytest.mark.parametrize("scheme", ["sqlite", "lmdb"])
def test_on_a_full_disk_what_fits_is_written_beside_what_does_not(tmp_path: Path, scheme: str) -> None:
    out = on_a_small_disk(
        """
        import asyncio, sys, kv

        async def main():
            async with kv.open_async(f"{sys.argv[2]}:///{sys.argv[1]}") as store:
                await store.set("first", b"1")
                calls = [store.set("a", b"1"), store.set("large", bytes(2_000_000)), store.increment("n")]
                print([type(result).__name__ for result in await asyncio.gather(*calls, return_exceptions=True)])
                print(sorted(await store.keys()))

        asyncio.run(main())
        """,
        tmp_path,
        scheme,
    )
    assert out == "['NoneType', 'Unavailable', 'int']\n['a', 'first', 'n']\n"
