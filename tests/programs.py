"""Runs a piece of Python in a process of its own, as a user's program is run."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python(code: str, *args: object, wrapper: tuple[str, ...] = ()) -> str:
    """Run it with every warning an error; give what it printed, and fail on any word on stderr."""
    command = [
        *wrapper,
        sys.executable,
        "-X",
        "faulthandler",
        "-W",
        "error",
        "-c",
        textwrap.dedent(code),
        *map(str, args),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return done.stdout


def pythons(code: str, *args: object, processes: int = 4) -> list[str]:
    """Run it in several processes that begin together: each with `me`, its number. Gives what each printed."""
    head = "import sys; me = int(sys.argv.pop(1)); print(flush=True); sys.stdin.readline()\n"
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", head + textwrap.dedent(code)]
    running = [
        subprocess.Popen(
            [*command, str(me), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for me in range(processes)
    ]
    try:
        for one in running:
            assert one.stdout is not None
            one.stdout.readline()
        for one in running:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        said = [one.communicate(timeout=120) for one in running]
    finally:
        for one in running:
            one.kill()
            one.communicate()
    assert all(one.returncode == 0 for one in running), [error for _, error in said]
    assert all(error == "" for _, error in said), [error for _, error in said]
    return [out for out, _ in said]


def children(url: str) -> str:
    """Fork while threads write, and let each child count and end, with and without closing the store. Gives what it says."""
    return python(
        """
        import os, sys, threading, warnings, kv
        warnings.simplefilter("ignore", DeprecationWarning)   # of fork beside threads, which is what is tested
        store = kv.open(sys.argv[1], cleanup_interval=1000)
        store.set("k", b"parent")
        assert store.get("k")
        stop = threading.Event()
        def write():
            while not stop.is_set():
                store.increment("parent")
                store.get("k")
        threads = [threading.Thread(target=write) for _ in range(3)]
        for t in threads: t.start()
        for i in range(10):
            pid = os.fork()
            if not pid:
                for _ in range(20):
                    store.increment("child")
                assert store.get("k") == b"parent"
                if i % 2:
                    store.close()
                    sys.exit(0)       # the interpreter ends, and closes nothing of the parent's
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for t in threads: t.join()
        print(store.get("child"), store.verify())
        store.close()
        """,
        url,
    )


def child_inside_an_update(url: str) -> str:
    """Fork in the function given to update, and let the child read after that. Gives what has been written."""
    return python(
        """
        import os, sys, kv
        store = kv.open(sys.argv[1])
        parent = os.getpid()
        def fn(value):
            return b"parent" if os.fork() else b"child"
        try:
            store.update("k", fn)
        except kv.BackendError as e:
            assert os.getpid() != parent and "forked inside an update" in str(e), e
            assert store.get("k") in (None, b"parent")
            os._exit(0)
        assert os.getpid() == parent and os.wait()[1] == 0
        print(store.get("k"))
        store.close()
        """,
        url,
    )
