"""A Flask application in the sync colour: sessions, a rate limit, preferences, a cached function, and a counter of visits.

    pip install "anykv[all]" flask gunicorn
    KV_URL=sqlite:///app.db gunicorn --chdir examples --workers 2 --threads 8 "wsgi_app:create_app()"

    curl -c jar -b jar localhost:8000/login -d user=ada -d password=analytical
    curl -c jar -b jar localhost:8000/preferences -d theme=dark
    curl -c jar -b jar localhost:8000/

Another KV_URL, as redis://localhost or postgresql://localhost/app, is all that changes when it moves to another store.
`memory://` is good for one worker alone.
"""

from __future__ import annotations

import atexit
import math
import secrets
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from flask import Flask, Response, abort, g, jsonify, request

import kv
from kv.adapters import Cache, Counter, RateLimiter, Sessions, Setting, Settings

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

PEOPLE = {"ada": "analytical", "grace": "compiler"}
"""Stands for your table of users, which has hashes of passwords."""

THEME: Setting[str] = Setting("ui.theme", "light", kind=Literal["light", "dark"])
PER_PAGE = Setting("ui.per_page", 20)
CHOICES = {"light": "light", "dark": "dark", **{str(n): n for n in (10, 20, 50)}}


def create_app(url: str | None = None) -> Flask:
    """Make the application on the store that the URL names, or KV_URL. Threads share it, and so may workers that fork."""
    app = Flask(__name__)
    store = kv.open(url)
    atexit.register(store.close)

    sessions: Sessions[dict[str, Any]] = Sessions(store, idle=timedelta(minutes=30), lifetime=timedelta(days=7))
    requests = RateLimiter(store, 100, per=60)
    settings = Settings(store, [THEME, PER_PAGE])
    visits = Counter(store, "visits", every=60, keep=timedelta(days=1))
    cache: Cache[Any] = Cache(store, ttl=60, processes=True)  # one worker makes a value, the others wait for it

    @cache.cached()
    def primes(most: int) -> list[int]:
        """Stands for what is slow."""
        time.sleep(0.1)
        return [n for n in range(2, most) if all(n % d for d in range(2, math.isqrt(n) + 1))]

    @app.before_request
    def begin() -> None:
        """Count the request, and find who it is from."""
        decision = requests.check(request.remote_addr or "unknown")  # behind a proxy: see werkzeug's ProxyFix
        if not decision.allowed:
            answer = jsonify(error="too many requests")
            answer.status_code = 429
            answer.headers["Retry-After"] = str(math.ceil(decision.retry_after))
            abort(answer)
        visits.add()
        g.session = sessions.get(request.cookies.get("session", ""))
        g.user = g.session.user if g.session else None

    @app.errorhandler(kv.Unavailable)
    def unavailable(_error: Exception) -> ResponseReturnValue:
        """The store cannot be reached, and nothing has happened: the client may try again."""
        return jsonify(error="try again soon"), 503, {"Retry-After": "1"}

    @app.get("/")
    def index() -> ResponseReturnValue:
        """Show what the user prefers."""
        mine = settings.of(g.user) if g.user else settings
        return jsonify(user=g.user, preferences=mine.category("ui"), visits=visits.total(timedelta(hours=1)))

    @app.post("/login")
    def login() -> ResponseReturnValue:
        """Log in. The session gets a new id, so that who has planted or seen the old one has nothing."""
        user, password = request.form.get("user", ""), request.form.get("password", "")
        if user not in PEOPLE or not secrets.compare_digest(PEOPLE[user].encode(), password.encode()):
            return jsonify(error="user or password is wrong"), 401
        try:
            session_id = sessions.rotate(g.session.id if g.session else "", user=user)
        except kv.KeyNotFound:  # there is none, or it ended just now
            session_id = sessions.create({}, user=user)
        answer = jsonify(user=user)
        # no script reads it, and no other site sends it with a POST
        answer.set_cookie("session", session_id, httponly=True, samesite="Lax", secure=request.is_secure)
        return answer

    @app.post("/preferences")
    def prefer() -> ResponseReturnValue:
        """Change some of the user's preferences: all that were sent, or none where one is wrong."""
        if not g.user:
            return jsonify(error="log in first"), 401
        try:
            chosen = {settings[f"ui.{name}"]: CHOICES.get(text, text) for name, text in request.form.items()}
            settings.of(g.user).set_many(chosen)
        except (kv.KeyNotFound, kv.InvalidValue) as e:
            return jsonify(error=str(e)), 400
        return jsonify(settings.of(g.user).category("ui"))

    @app.get("/primes/<int:most>")
    def show_primes(most: int) -> ResponseReturnValue:
        """Answer from the cache, or have it worked out once, however many want it."""
        return jsonify(primes(min(most, 10_000)))

    @app.post("/logout")
    def logout() -> ResponseReturnValue:
        """End this session, or with `everywhere` all of the user."""
        if g.user and "everywhere" in request.form:
            sessions.end_user(g.user)
        elif g.session:
            sessions.end(g.session.id)
        answer = Response(status=204)
        answer.delete_cookie("session")
        return answer

    return app
