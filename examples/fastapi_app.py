"""A FastAPI application with sessions, rate limits and a cache, all on one store. Run it, with so many workers as you like:

    pip install "anykv[all]" fastapi uvicorn
    KV_URL=sqlite:///app.db uvicorn fastapi_app:app --app-dir examples --workers 2

    curl -c jar -b jar localhost:8000/
    curl -c jar -b jar localhost:8000/login --json '{"user": "ada", "password": "analytical"}'
    curl -c jar -b jar localhost:8000/weather/london

Another KV_URL, as redis://localhost or postgresql://localhost/app, is all that changes when it moves to another store.
`memory://` is good for one worker alone.
"""

import asyncio
import math
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from fastapi import Cookie, Depends, FastAPI, HTTPException, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import kv
from kv.adapters import AsyncCache, AsyncRateLimiter, AsyncSessions, Decision, Session

PEOPLE = {"ada": "analytical", "grace": "compiler"}
"""Stands for your table of users, which has hashes of passwords."""


@dataclass
class Visit:
    """What a session remembers."""

    pages: int = 0


class Kept:
    """All that this application keeps, on a store that is open."""

    def __init__(self, store: kv.AsyncStore) -> None:
        self.sessions = AsyncSessions(store, Visit, idle=timedelta(minutes=30), lifetime=timedelta(days=7))
        # for each client, exact over all workers
        self.requests = AsyncRateLimiter(store, 100, per=60, algorithm="sliding")
        # for each user: 5 wrong passwords at once, then one in 3 minutes
        self.logins = AsyncRateLimiter(store, 5, per=900, algorithm="bucket")
        # one worker asks, the others wait for it; what is too old is better than nothing
        self.weather: AsyncCache[dict[str, object]] = AsyncCache(store, ttl=60, stale_if_error=3600, processes=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the store when a worker begins, in its event loop, and close it at the end."""
    async with kv.open_async() as store:  # what KV_URL names
        app.state.kept = Kept(store)
        yield


# what the routes ask for


def kept(request: Request) -> Kept:
    """Give what is kept."""
    found: Kept = request.app.state.kept
    return found


On = Annotated[Kept, Depends(kept)]


def refuse(decision: Decision) -> None:
    """Answer 429 where a limit says so."""
    if not decision.allowed:
        wait = {"Retry-After": str(math.ceil(decision.retry_after))}
        raise HTTPException(429, "too many requests", headers=wait)


async def limited(request: Request, on: On) -> None:
    """Count each request for its client."""
    # Behind a proxy this is the proxy, unless uvicorn is told to trust it: --proxy-headers --forwarded-allow-ips
    refuse(await on.requests.check(request.client.host if request.client else "unknown"))


async def current(on: On, session: Annotated[str, Cookie()] = "") -> Session[Visit] | None:
    """Give the session of the cookie, whatever it holds; None where there is none."""
    return await on.sessions.get(session)


Current = Annotated[Session[Visit] | None, Depends(current)]


async def logged_in(session: Current) -> str:
    """Give the user, or answer 401."""
    if session is None or session.user is None:
        raise HTTPException(401, "log in first")
    return session.user


def remember(response: Response, request: Request, session_id: str) -> None:
    """Have the browser keep the id: no script reads it, and no other site sends it with a POST."""
    secure = request.url.scheme == "https"
    response.set_cookie("session", session_id, httponly=True, samesite="lax", secure=secure)


app = FastAPI(lifespan=lifespan, dependencies=[Depends(limited)])


@app.exception_handler(kv.Unavailable)
async def unavailable(_request: Request, _error: Exception) -> JSONResponse:
    """The store cannot be reached, and nothing has happened: the client may try again."""
    return JSONResponse({"detail": "try again soon"}, 503, {"Retry-After": "1"})


@app.exception_handler(kv.KeyNotFound)
async def over(_request: Request, _error: Exception) -> JSONResponse:
    """The session ended while its request was under way."""
    return JSONResponse({"detail": "log in again"}, 401)


@app.get("/")
async def index(request: Request, response: Response, on: On, session: Current) -> dict[str, object]:
    """Count the pages that somebody saw, before the login too."""
    session_id = session.id if session else await on.sessions.create(Visit())
    remember(response, request, session_id)
    visit = await on.sessions.update(session_id, lambda visit: Visit(visit.pages + 1))  # none is lost
    return {"user": session.user if session else None, "pages": visit.pages}


class Login(BaseModel):
    """What is needed to log in."""

    user: str = Field(pattern=r"^[a-z0-9_.-]{1,64}$")  # it becomes a key of the store
    password: str = Field(max_length=200)


@app.post("/login")
async def login(form: Login, request: Request, response: Response, on: On, session: Current) -> dict[str, str]:
    """Log in. The session gets a new id, so that who has planted or seen the old one has nothing."""
    refuse(await on.logins.check(form.user))
    password = PEOPLE.get(form.user)
    if password is None or not secrets.compare_digest(password.encode(), form.password.encode()):
        raise HTTPException(401, "user or password is wrong")
    await on.logins.reset(form.user)
    try:
        session_id = await on.sessions.rotate(session.id if session else "", user=form.user)
    except kv.KeyNotFound:  # there is none, or it ended just now
        session_id = await on.sessions.create(Visit(), user=form.user)
    remember(response, request, session_id)
    return {"user": form.user}


@app.post("/logout")
async def logout(response: Response, on: On, session: Current) -> dict[str, bool]:
    """End this session."""
    response.delete_cookie("session")
    return {"ended": session is not None and await on.sessions.end(session.id)}


@app.post("/logout-everywhere")
async def logout_everywhere(response: Response, on: On, user: Annotated[str, Depends(logged_in)]) -> dict[str, str]:
    """End all sessions of the user, in all browsers, at once."""
    await on.sessions.end_user(user)
    response.delete_cookie("session")
    return {"user": user}


@app.get("/weather/{city}")
async def weather(city: Annotated[str, Path(pattern="^[a-z-]{1,40}$")], on: On) -> dict[str, object]:
    """Answer from the cache, or have it asked for once, however many want it."""
    return await on.weather.get_or_set(city, lambda: look_up(city))


async def look_up(city: str) -> dict[str, object]:
    """Stands for a service that is slow, and costs."""
    await asyncio.sleep(0.2)
    return {"city": city, "degrees": random.randint(-10, 35), "asked_at": time.time_ns()}
