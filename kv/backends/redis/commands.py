"""Every command and script that is sent to Redis, and how its answer is read. Pure, the same for both colours."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kv.expiry import KEEP_TTL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kv.expiry import Ages
    from kv.store import Record

PAGE: Final = 1_000
"""How many keys one command that may touch any number of them names at most, and one SCAN looks at."""


LAYOUT: Final = [("CLUSTER", "SLOTS"), ("CLUSTER", "NODES")]
"""What tells which server of a cluster has what, in its own view."""


class Command(NamedTuple):
    """What is sent, and where."""

    args: tuple[Any, ...]
    name: bytes
    """The key that decides which server of a cluster it is for."""
    writes: bool = True

    @property
    def about(self) -> str:
        """The keys that it touches, for a message."""
        names = self.args[3 : 3 + self.args[2]] if self.args[0] in ("EVALSHA", "EVAL") else (self.name,)
        return " or ".join(repr(name.decode(errors="replace")) for name in names[:9]) + (
            "" if len(names) < 10 else "..."
        )


class Script:
    """A Lua script: sent by its digest, and whole where the server does not know it, as after a flush or a failover."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        _texts[self._digest] = text

    def on(self, names: Sequence[bytes], *args: object) -> Command:
        """Give the command that runs it on these keys."""
        return Command(("EVALSHA", self._digest, len(names), *names, *args), names[0])


_texts: dict[str, str] = {}


def whole(command: Command) -> Command:
    """Give the command with its script's text, for a server that does not know the digest."""
    _, digest, *rest = command.args
    return command._replace(args=("EVAL", _texts[digest], *rest))


_UNTIL: Final = """
local function until_(ms)
    local now = redis.call('TIME')
    return string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + ms)
end
local function put(name, value, ms)
    if ms == '' then
        redis.call('SET', name, value)
    elseif ms == 'keep' then
        redis.call('SET', name, value, 'KEEPTTL')
    else
        redis.call('SET', name, value, 'PXAT', ms)
    end
end
"""
"""One deadline for all that a script writes: else a reader could see a part of it when it expires."""

_STORE: Final = Script(
    _UNTIL
    + """
local ms = until_(ARGV[1])
for i, name in ipairs(KEYS) do
    put(name, ARGV[i + 1], ms)
end
"""
)

_SWAP: Final = Script(
    _UNTIL
    + """
-- ARGV: the ttl of what is there, the ttl of what is created, whether to tell what stands against it; then for each key
-- whether it must be there, with which value, whether to store, and what
local found, same = {}, true
for i, name in ipairs(KEYS) do
    local at = i * 4
    found[i] = redis.call('GET', name)
    if found[i] ~= (ARGV[at] == '1' and ARGV[at + 1]) then
        same = false
    end
end
if not same then
    return ARGV[3] == '1' and found or {}
end
local there, created = ARGV[1], ARGV[2]
if tonumber(there) then there = until_(there) end
if tonumber(created) then created = until_(created) end
for i, name in ipairs(KEYS) do
    local at = i * 4
    if ARGV[at + 2] == '1' then
        put(name, ARGV[at + 3], found[i] and there or created)
    elseif found[i] then
        redis.call('DEL', name)
    end
end
return 1
"""
)

_INCREMENT: Final = Script(
    """
local new = redis.call('EXISTS', KEYS[1]) == 0
redis.call('INCRBY', KEYS[1], ARGV[1])
local ms = new and ARGV[3] or ARGV[2]
if ms == '' then
    redis.call('PERSIST', KEYS[1])
elseif ms ~= 'keep' then
    redis.call('PEXPIRE', KEYS[1], ms)
end
return redis.call('GET', KEYS[1])
"""
)

_SIZE: Final = Script("return redis.call('EXISTS', KEYS[1]) == 1 and redis.call('STRLEN', KEYS[1])")
_KEEP: Final = Script("redis.call('PERSIST', KEYS[1]) return redis.call('EXISTS', KEYS[1])")


def _age(ms: object) -> object:
    return "keep" if ms is KEEP_TTL else "" if ms is None else ms


def get(name: bytes) -> Command:
    return Command(("GET", name), name, False)


def put(name: bytes, value: bytes, ms: int | None) -> Command:
    return Command(("SET", name, value) if ms is None else ("SET", name, value, "PX", ms), name)


def add(name: bytes, value: bytes, ms: int | None) -> Command:
    return Command(("SET", name, value, "NX") if ms is None else ("SET", name, value, "NX", "PX", ms), name)


def put_many(entries: dict[bytes, bytes], ms: int | None) -> Command:
    """All in one step."""
    if ms is not None:
        return _STORE.on([*entries], ms, *entries.values())
    return Command(("MSET", *(part for entry in entries.items() for part in entry)), next(iter(entries)))


def get_many(names: list[bytes]) -> Command:
    return Command(("MGET", *names), names[0], False)


def delete(names: Sequence[bytes]) -> Command:
    return Command(("UNLINK", *names), names[0])


def pop(name: bytes) -> Command:
    return Command(("GETDEL", name), name)


def exists(name: bytes) -> Command:
    return Command(("EXISTS", name), name, False)


def size(name: bytes) -> Command:
    return _SIZE.on([name])._replace(writes=False)


def ttl(name: bytes) -> Command:
    return Command(("PTTL", name), name, False)


def expire(name: bytes, ms: int | None) -> Command:
    return _KEEP.on([name]) if ms is None else Command(("PEXPIRE", name, ms), name)


def persist(name: bytes) -> Command:
    return Command(("PERSIST", name), name)


def increment(name: bytes, amount: int, ages: Ages) -> Command:
    there, created = ages
    if there is KEEP_TTL and created is None:
        return Command(("INCRBY", name, amount), name)
    return _INCREMENT.on([name], amount, _age(there), _age(created))


def swap(
    names: Sequence[bytes],
    found: Sequence[bytes | None],
    new: Sequence[bytes | None],
    ages: Ages,
    *,
    tell: bool = True,
) -> Command:
    """Store the new values, None deletes, where what was found still stands there.

    The answer is 1, or what stands there instead: of each key in turn, or nothing unless `tell`.
    """
    there, created = ages
    parts: list[object] = []
    for old, value in zip(found, new, strict=True):
        parts += (0, "") if old is None else (1, old)
        parts += (0, "") if value is None else (1, value)
    return _SWAP.on(names, _age(there), _age(created), int(tell), *parts)


def load(name: bytes, record: Record) -> Command:
    until = () if record.expires_at is None else ("PXAT", record.expires_at)
    return Command(("SET", name, record.value, *until), name)


def read(names: Iterable[bytes], deadline: str) -> list[Command]:
    """Give what reads entries with their deadlines, by `PTTL` or by `PEXPIRETIME`."""
    return [command for name in names for command in (get(name), Command((deadline, name), name, False))]


def lengths(names: Iterable[bytes]) -> list[Command]:
    return [c for name in names for c in (Command(("STRLEN", name), name, False), exists(name))]


def kinds(names: Iterable[bytes]) -> list[Command]:
    return [Command(("TYPE", name), name, False) for name in names]


def scan(cursor: object, pattern: bytes, *, strings: bool = True) -> tuple[Any, ...]:
    kind = ("TYPE", "string") if strings else ()
    return ("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE, *kind)


def seconds(ms: int) -> float | None:
    """Give what `PTTL` says as `ttl` does; an entry in its last millisecond is still there."""
    return None if ms == -2 else float("inf") if ms == -1 else max(ms, 1) / 1000


def pairs(answers: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    """Give the answers of commands that come in twos."""
    return zip(answers[::2], answers[1::2], strict=True)


def done(answer: object) -> bool:
    """Whether a command or script that says 1 where it changed something says so."""
    return answer == 1
