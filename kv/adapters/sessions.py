"""Sessions of a web application: unguessable ids, two deadlines, a new id at login, and an end to all of a user's."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NamedTuple, TypeVar, overload

from kv.codecs import codec_for, decoded, encoded
from kv.errors import InvalidKey, KeyNotFound
from kv.keys import check_key
from kv.store import AsyncStore, Store
from kv.values import Unchanged, call, check_fn

from .records import foreign, pack, unpack
from .steps import check_store, lasting, run, run_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from kv.codecs import AnyCodec, Codec
    from kv.expiry import TTL

    from .steps import Steps

__all__ = ["AsyncSessions", "Session", "Sessions"]

S = TypeVar("S", bound=Store | AsyncStore)
T = TypeVar("T")

_SAME: Final[Any] = object()
"""The user stays who it is."""
_WHAT: Final = "a session"


@dataclass(frozen=True)
class Session(Generic[T]):
    """A session as it was when it was read."""

    id: str = field(repr=False)
    data: T = field(repr=False)
    user: str | None
    created_at: float
    """Seconds since 1970; of the first id, where it was rotated."""


class _Record(NamedTuple):
    """What is stored of a session, under the SHA-256 of its id: who can read the store can take over no session."""

    user: str | None
    stamp: str | None
    """That of the user when the session became theirs: it is over when theirs is another one."""
    created: float
    payload: bytes

    def pack(self) -> bytes:
        return pack({"user": self.user, "stamp": self.stamp, "created": self.created}, self.payload)


def _read(value: bytes, key: str) -> _Record:
    facts, payload = unpack(value, key, _WHAT)
    match facts:
        case {"user": str() | None as user, "stamp": str() | None as stamp, "created": float(created)}:
            return _Record(user, stamp, created, payload)
    raise foreign(key, _WHAT)


def _key(session_id: object) -> str:
    if not isinstance(session_id, str):
        raise InvalidKey(f"the id of a session must be a str, not {type(session_id).__name__}")
    return hashlib.sha256(session_id.encode("utf-8", "surrogatepass")).hexdigest()


def _over() -> KeyNotFound:
    return KeyNotFound("there is no session of this id: it is over, or never was one; create another")


class _Sessions(Generic[S, T]):
    """What both colours share: what is stored, and every step."""

    _end: ClassVar[str]

    @overload
    def __init__(
        self,
        store: S,
        kind: type[T],
        *,
        codec: AnyCodec = None,
        idle: TTL = 3600.0,
        lifetime: TTL = None,
        clock: Callable[[], float] = time.time,
    ) -> None: ...
    @overload
    def __init__(
        self,
        store: S,
        kind: Any = object,
        *,
        codec: AnyCodec = None,
        idle: TTL = 3600.0,
        lifetime: TTL = None,
        clock: Callable[[], float] = time.time,
    ) -> None: ...
    def __init__(
        self,
        store: Any,
        kind: Any = object,
        *,
        codec: AnyCodec = None,
        idle: TTL = 3600.0,
        lifetime: TTL = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_store(store, self, self._end)
        self._store = store
        self._codec: Codec[T] = codec_for(codec, kind)
        self._idle = lasting(idle, "idle")
        self._lifetime = None if lifetime is None else lasting(lifetime, "lifetime")
        self._clock = clock
        self._entries = store.namespace("session")
        self._stamps = self._entries.namespace("user")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._store!r}>"

    def _left(self, created: float) -> float:
        """Give the seconds that a session has from now on; none, or less, where its lifetime is over."""
        if self._lifetime is None:
            return self._idle
        return min(self._idle, self._lifetime, created + self._lifetime - self._clock())

    def _stamp(self, user: str | None) -> Steps[str | None]:
        if user is None:
            return None
        stamp: bytes | None = yield lambda: self._stamps.get(user)
        return None if stamp is None else stamp.hex()

    def _lives(self, record: _Record) -> Steps[bool]:
        if self._left(record.created) <= 0:
            return False
        return (yield from self._stamp(record.user)) == record.stamp

    def _finding(self, key: str) -> Steps[_Record | None]:
        value: bytes | None = yield lambda: self._entries.get(key)
        record = None if value is None else _read(value, key)
        return record if record and (yield from self._lives(record)) else None

    def _taking(self, key: str) -> Steps[_Record | None]:
        """Delete a session and give it, in one step: of many callers one gets it. What is none stays."""
        taken: list[_Record] = []

        def fn(value: bytes | None) -> None:
            if value is None:
                raise Unchanged
            taken.append(_read(value, key))

        try:
            yield lambda: self._entries.update(key, fn)
        except Unchanged:
            return None
        return taken[-1]

    def _storing(self, record: _Record) -> Steps[str]:
        id = secrets.token_urlsafe(32)
        ttl = self._left(record.created)
        if ttl <= 0:
            raise _over()
        yield lambda: self._entries.set(_key(id), record.pack(), ttl=ttl)
        return id

    def _creating(self, data: T, user: str | None) -> Steps[str]:
        payload = encoded(self._codec, data, _WHAT)
        user = _user(user)
        # The stamp is read first: where `end_user` comes in between, this session has the old one, and is over.
        stamp = yield from self._stamp(user)
        return (yield from self._storing(_Record(user, stamp, float(self._clock()), payload)))

    def _getting(self, session_id: str) -> Steps[Session[T] | None]:
        key = _key(session_id)
        record = yield from self._finding(key)
        if record is None:
            return None
        data = decoded(self._codec, record.payload, key)
        ttl = self._left(record.created)
        if ttl <= 0 or not (yield lambda: self._entries.expire(key, ttl)):
            return None  # it ended meanwhile
        return Session(session_id, data, record.user, record.created)

    def _updating(self, session_id: str, fn: Callable[[T], T]) -> Steps[T]:
        check_fn(fn)
        key = _key(session_id)
        done: list[T] = []

        def change(payload: bytes) -> bytes:
            data: T = call(fn, decoded(self._codec, payload, key))
            done.append(data)
            return encoded(self._codec, data, _WHAT)

        yield from self._changing(key, change)
        return done[-1]

    def _replacing(self, session_id: str, data: T) -> Steps[None]:
        payload = encoded(self._codec, data, _WHAT)
        yield from self._changing(_key(session_id), lambda _: payload)

    def _changing(self, key: str, change: Callable[[bytes], bytes]) -> Steps[None]:
        changed: list[_Record] = []

        def fn(value: bytes | None) -> bytes:
            record = None if value is None else _read(value, key)
            if record is None or self._left(record.created) <= 0:
                raise _over()
            changed.append(record)
            return record._replace(payload=change(record.payload)).pack()

        yield lambda: self._entries.update(key, fn)
        # Asked afterwards, as only now is it known whose session it is; what was written to one that is over nobody sees.
        if not (yield from self._lives(changed[-1])):
            raise _over()

    def _rotating(self, session_id: str, user: str | None) -> Steps[str]:
        """End the old id, then store under a new one: of many rotations one goes on, and one killed in between doubles nothing.

        All that can fail by itself, or tell that the session is over, comes before.
        """
        key = _key(session_id)
        user = user if user is _SAME else _user(user)
        found = yield from self._finding(key)
        if found is None:
            raise _over()
        # The stamp stays what it was: with a new one, a rotation begun before `end_user` would outlive it.
        stamp = found.stamp
        if user is not _SAME and user != found.user:
            stamp = yield from self._stamp(user)
        record = yield from self._taking(key)
        if record is None:
            raise _over()
        whose = record.user if user is _SAME else user
        return (yield from self._storing(record._replace(user=whose, stamp=stamp)))

    def _ending(self, session_id: str) -> Steps[bool]:
        record = yield from self._taking(_key(session_id))
        return record is not None and (yield from self._lives(record))

    def _ending_user(self, user: str) -> Steps[None]:
        name, stamp = check_key(user, "user"), secrets.token_bytes(16)
        yield lambda: self._stamps.set(name, stamp)


def _user(user: str | None) -> str | None:
    return None if user is None else check_key(user, "user")


class Sessions(_Sessions[Store, T]):
    """Sessions, each data of a type under an id that nobody can guess: for a cookie.

        id = sessions.create({"cart": []})
        session = sessions.get(id)              # None where it is over
        id = sessions.rotate(id, user="ada")    # at login

    A session is over when it was not got for `idle`, by the store's clock, and, where there is a `lifetime`, so long after
    it was created, by the caller's clock. Ids are secrets: they are stored as SHA-256 alone, and shown nowhere. A str that is
    the id of no session, as of a damaged cookie, is like the id of one that is over. A near cache does not belong under
    sessions: what another process has ended would live on in it for a while.

    Stored are one entry a session in the namespace `session`, and in `session`, `user` about 20 bytes for each user whose
    sessions were ever ended all at once, which stay.

    Args:
        store: an open store. It is not closed here.
        kind: the type of the data.
        codec: as for `kv.typed`.
        idle: seconds or a `timedelta`, to the millisecond; it must end.
        lifetime: so too; None: as long as it is in use.
        clock: seconds since 1970.
    """

    _end = "close"

    def create(self, data: T, *, user: str | None = None) -> str:
        """Begin a session. Gives its id, 43 characters of 256 random bits. One call, two with a user.

        Raises:
            InvalidValue: the data is not of the type.
            InvalidKey: the user is no key.
        """
        return run(self._creating(data, user))

    def get(self, session_id: str) -> Session[T] | None:
        """Give a session, and let it live for `idle` from now on; None where it is over. Two calls, three with a user.

        Raises:
            InvalidKey: the id is not a `str`.
            CorruptData: what is stored is no session, or its data not of the type; it was left as it is.
        """
        return run(self._getting(session_id))

    def update(self, session_id: str, fn: Callable[[T], T]) -> T:
        """Read, modify and write the data as one atomic step. Gives the new data. One call, two with a user.

        It does not live longer for that. `fn` is pure and may be called again, as for `Store.update`.

        Raises:
            KeyNotFound: the session is over.
        """
        return run(self._updating(session_id, fn))

    def set(self, session_id: str, data: T) -> None:
        """Replace the data. As `update`."""
        run(self._replacing(session_id, data))

    def rotate(self, session_id: str, *, user: str | None = _SAME) -> str:
        """Give the session another id, and at login a user; the old id ends. Gives the new id.

        Data and time of creation stay. Of many calls with one id one succeeds. Where the process is killed in the midst, the
        session may be over. Three calls; four with a user, and one more where the user is a new one.

        Raises:
            KeyNotFound: the session is over, or somebody else rotated it.
        """
        return run(self._rotating(session_id, user))

    def end(self, session_id: str) -> bool:
        """End a session. Gives whether there was one. One atomic call, two with a user."""
        return run(self._ending(session_id))

    def end_user(self, user: str) -> None:
        """End all sessions of a user, also those that are just being created or rotated. One call, however many there are."""
        run(self._ending_user(user))


class AsyncSessions(_Sessions[AsyncStore, T]):
    """See `Sessions`."""

    _end = "aclose"

    async def create(self, data: T, *, user: str | None = None) -> str:
        """See `Sessions.create`."""
        return await run_async(self._creating(data, user))

    async def get(self, session_id: str) -> Session[T] | None:
        """See `Sessions.get`."""
        return await run_async(self._getting(session_id))

    async def update(self, session_id: str, fn: Callable[[T], T]) -> T:
        """See `Sessions.update`."""
        return await run_async(self._updating(session_id, fn))

    async def set(self, session_id: str, data: T) -> None:
        """See `Sessions.set`."""
        await run_async(self._replacing(session_id, data))

    async def rotate(self, session_id: str, *, user: str | None = _SAME) -> str:
        """See `Sessions.rotate`."""
        return await run_async(self._rotating(session_id, user))

    async def end(self, session_id: str) -> bool:
        """See `Sessions.end`."""
        return await run_async(self._ending(session_id))

    async def end_user(self, user: str) -> None:
        """See `Sessions.end_user`."""
        await run_async(self._ending_user(user))
