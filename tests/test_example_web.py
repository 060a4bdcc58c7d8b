"""The web applications of the examples, over HTTP, each in processes that share a store and a socket."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from adapted import AsyncCutOff
from colours import run
from programs import ROOT

import kv

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = ROOT / "examples"

STILL = """
    import sys, time
    now = float(sys.argv[2])
    time.time = lambda: now     # what follows takes it as the clock: no window of a limit ends in the midst of a test
"""

FASTAPI = """
    import socket, uvicorn
    from fastapi_app import app
    config = uvicorn.Config(app, log_level="warning", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
"""

WSGI = """
    import logging, signal
    from werkzeug.serving import make_server
    from wsgi_app import create_app
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    make_server("127.0.0.1", 0, create_app(), threaded=True, fd=int(sys.argv[1])).serve_forever()
"""


@contextlib.contextmanager
def serving(code: str, url: str) -> Iterator[str]:
    """Serve in two processes on one socket, in one where only one can use the store; they end well, and say nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        listener.set_inheritable(True)
        now = time.time()
        command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", textwrap.dedent(STILL + code)]
        workers = [
            subprocess.Popen(
                [*command, str(listener.fileno()), str(now)],
                env={**os.environ, "KV_URL": url, "PYTHONPATH": os.pathsep.join([str(EXAMPLES), str(ROOT)])},
                pass_fds=[listener.fileno()],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(1 if url == "memory://" else 2)
        ]
        try:
            # requests wait in the backlog until a worker is there
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            for worker in workers:
                worker.terminate()
            said = [worker.communicate(timeout=60) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
    assert [*said] == [("", "")] * len(workers)


def browser(address: str, session: str = "") -> httpx.Client:
    cookies = {"session": session} if session else None
    return httpx.Client(base_url=address, cookies=cookies, timeout=60, verify=False)  # no certificates to load


def seen(address: str, session: str = "") -> Any:
    """What another browser is shown, with a cookie or without one."""
    with browser(address, session) as other:
        return other.get("/").json()


def cookie(answer: httpx.Response) -> str:
    (line,) = answer.headers.get_list("set-cookie")
    assert "httponly" in line.lower()
    assert "samesite=lax" in line.lower()
    return str(answer.cookies["session"])


def at_once(address: str, path: str, times: int) -> list[httpx.Response]:
    with ThreadPoolExecutor(8) as threads, browser(address) as client:
        return [*threads.map(lambda _: client.get(path), range(times))]


def exactly_100(address: str, path: str, before: int) -> None:
    """Ask until it is refused: 100 requests of a client are allowed, however many processes there are."""
    answers = at_once(address, path, 130 - before)
    assert sum(answer.status_code != 429 for answer in answers) == 100 - before
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 60


@pytest.mark.parametrize("anywhere", ["memory", "sqlite", "redis"], indirect=True)
def test_the_fastapi_application(anywhere: str) -> None:
    ada, grace = {"user": "ada", "password": "analytical"}, {"user": "grace", "password": "compiler"}
    with serving(FASTAPI, anywhere) as address, browser(address) as one, browser(address) as two:
        before = cookie(one.get("/"))
        assert one.get("/").json() == {"user": None, "pages": 2}
        assert one.post("/login", json={**ada, "password": "guess"}).status_code == 401
        assert one.post("/login", json={"user": "nobody", "password": ""}).status_code == 401
        assert one.post("/login", json={"user": "\x00", "password": ""}).status_code == 422
        assert one.post("/logout-everywhere").status_code == 401
        after = cookie(one.post("/login", json=ada))
        assert after != before  # a login gives a new id, and keeps what the session remembers
        assert one.get("/").json() == {"user": "ada", "pages": 3}
        assert seen(address, before) == {"user": None, "pages": 1}
        two.post("/login", json=ada)
        assert two.get("/").json() == {"user": "ada", "pages": 1}
        assert one.post("/logout").json() == {"ended": True}
        assert one.get("/").json() == {"user": None, "pages": 1}
        one.post("/login", json=ada)
        with browser(address) as other:
            third = cookie(other.post("/login", json=grace))
        assert two.post("/logout-everywhere").json() == {"user": "ada"}
        assert one.get("/").json()["user"] is None
        assert seen(address, third)["user"] == "grace"
        guesses = [two.post("/login", json={**grace, "password": "guess"}).status_code for _ in range(6)]
        assert guesses == [401] * 5 + [429]
        weather = at_once(address, "/weather/london", 8)
        assert len({answer.text for answer in weather}) == 1  # it was asked for once
        assert one.get("/weather/LONDON").status_code == 422
        exactly_100(address, "/weather/paris", before=33)


@pytest.mark.parametrize("anywhere", ["memory", "sqlite", "postgres"], indirect=True)
def test_the_wsgi_application(anywhere: str) -> None:
    ada = {"user": "ada", "password": "analytical"}
    with serving(WSGI, anywhere) as address, browser(address) as one, browser(address) as two:
        defaults = {"ui.theme": "light", "ui.per_page": 20}
        assert one.get("/").json() == {"user": None, "preferences": defaults, "visits": 1}
        assert one.post("/preferences", data={"theme": "dark"}).status_code == 401
        assert one.post("/login", data={"user": "ada", "password": "guess"}).status_code == 401
        assert one.post("/login").status_code == 401
        first = cookie(one.post("/login", data=ada))
        assert cookie(one.post("/login", data=ada)) != first
        assert seen(address, first)["user"] is None
        assert one.post("/preferences", data={"theme": "dark", "per_page": "50"}).json() == {
            "ui.theme": "dark",
            "ui.per_page": 50,
        }
        for wrong in ({"theme": "light", "per_page": "many"}, {"theme": "light", "colour": "red"}):
            assert one.post("/preferences", data=wrong).status_code == 400
        two.post("/login", data=ada)
        for each in (one, two):
            assert each.get("/").json()["preferences"] == {"ui.theme": "dark", "ui.per_page": 50}
        assert seen(address)["preferences"] == defaults
        assert len({answer.text for answer in at_once(address, "/primes/50", 8)}) == 1
        assert one.get("/primes/10").json() == [2, 3, 5, 7]
        assert one.post("/logout").status_code == 204
        assert one.get("/").json()["user"] is None
        assert two.get("/").json()["user"] == "ada"
        one.post("/login", data=ada)
        two.post("/logout", data={"everywhere": "yes"})
        assert [each.get("/").json()["user"] for each in (one, two)] == [None, None]
        assert one.get("/").json()["visits"] == 31
        exactly_100(address, "/primes/50", before=31)


def test_the_client_is_told_to_try_again_where_the_store_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import fastapi_app

    async def body(store: Any) -> None:
        for method in ("update", "get"):  # of the limit, and of the session
            app, cut = fastapi_app.app, AsyncCutOff(store, method, kv.Unavailable("gone"))
            app.state.kept = fastapi_app.Kept(cut)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                answer = await client.get("/")
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert (await client.get("/")).json()["pages"] == 1

    run(kv.open_async("memory://"), body)


def test_the_store_is_open_as_long_as_the_application_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("KV_URL", "memory://")
    import fastapi_app

    async def body(_store: Any) -> None:
        async with fastapi_app.lifespan(fastapi_app.app):
            sessions = fastapi_app.app.state.kept.sessions
            assert await sessions.get("none") is None
        with pytest.raises(kv.StoreClosed):
            await sessions.get("none")

    run(kv.open_async("memory://"), body)
