"""What is done with input from outside, as functions of any bytes: each ends, or raises because something is wrong.

`test_fuzzing.py` runs them for a moment, `make fuzz` for as long as one likes, led by what code they reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import re
import tempfile
from base64 import b64encode
from inspect import signature
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

import asyncpg
import redis
from asyncpg import connect_utils
from commands import call
from exports import contents, exported, load, signed
from redis._parsers import Encoder, _AsyncRESP2Parser, _AsyncRESP3Parser
from test_codecs import KINDS
from test_keys import matches

import kv
from kv import codecs
from kv.backends.postgres.address import for_asyncpg
from kv.backends.postgres.parts import Settings
from kv.backends.postgres.psycopg_sources import told
from kv.backends.redis import wire
from kv.backends.redis.names import Names, is_entry
from kv.backends.redis.server import Server
from kv.codecs import alike, codec_for, decoded, encoded
from kv.exact import digits, dumps, loads
from kv.expiry import ttl_ms
from kv.keys import SEPARATOR, Glob, Listing, check_key, check_path, fnv1a_64, fnv1a_64_many, prefix_end
from kv.url import _find, _parsed, hide, unquoted_path
from kv.values import to_int
from kv.wrappers import Compressed
from kv.wrappers.encryption import KeyRing

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "S3CRET"


def pieces(data: bytes, count: int) -> list[bytes]:
    """Cut it at its first NULs."""
    return (data.split(b"\0", count - 1) + [b""] * count)[:count]


def text(data: bytes) -> str:
    """A `str` that may hold lone surrogates, as those do that the system gives."""
    return data.decode(errors="surrogateescape")


def _chain(error: BaseException | None) -> list[BaseException]:
    """An exception and those that led to it."""
    return [] if error is None else [error, *_chain(error.__cause__), *_chain(error.__context__)]


def tells(error: BaseException | None) -> str:
    """All that somebody who logs it may see."""
    return "\n".join(f"{one} {one!r} {one.args!r} {getattr(one, '__notes__', '')}" for one in _chain(error))


def tells_no(secret: str, error: BaseException) -> None:
    """See that it is in none of that."""
    assert secret not in tells(error), tells(error)


def any_url(data: bytes) -> None:
    """A URL is taken or refused before any I/O, and no word tells its password."""
    first, user, left, right, rest = pieces(data, 5)
    scheme = SCHEMES[len(first) % len(SCHEMES)]
    name = re.sub(r"[:/?#@\[]", "", text(user))  # with a bracket it could be the host
    password = re.sub(r"\A(?=[0-9])", "p", text(left)) + SECRET + text(right)  # or it could be a port
    where = re.sub("@", "", text(rest)) or "h"
    for url in (
        f"{scheme}://{name}:{password.replace('@', '')}@{where}",
        f"{scheme}://{name}:{quote(password, safe='', errors='surrogateescape')}@{where}",
        f"{scheme}://{where}{'&' if '?' in where else '?'}password={password.replace('&', '').replace('#', '')}",
    ):
        assert SECRET not in hide(url), hide(url)
        try:
            _opened(url)
        except (kv.ConfigError, kv.InvalidKey) as e:
            tells_no(SECRET, e)


SCHEMES = ("postgresql", "redis", "redis+cluster", "unix", "sqlite", "memory", "rediss", "postgres", "nosuch")


def _opened(url: str) -> None:
    """Do what `kv.open` does with a URL before it connects, and let the drivers read it."""
    found, backend = _find(url)
    assert backend.store
    base, options, _ = _parsed(found, backend.store, {})
    scheme = base.partition(":")[0].lower()
    parameters = signature(backend.store).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty} | options
    given.pop("namespace", None)
    if scheme.startswith("postgres"):
        settings = Settings(base, "PostgresStore", **given)
        assert settings.url
        told(settings.url, settings.shown)
        for said in for_asyncpg(settings.url):
            _read_by_asyncpg(said["dsn"])
    elif scheme.startswith(("redis", "unix")):
        assert SECRET not in Server(base, "RedisStore", redis, **given).shown
    elif scheme == "memory":
        with kv.open(url, cleanup_interval=None) as store:
            assert SECRET not in repr(store)


def _read_by_asyncpg(dsn: str) -> None:
    given: dict[str, Any] = dict.fromkeys(inspect.signature(connect_utils._parse_connect_dsn_and_args).parameters)
    try:
        connect_utils._parse_connect_dsn_and_args(**{**given, "dsn": dsn})
    except (ValueError, asyncpg.InterfaceError, OSError) as e:
        tells_no(SECRET, e)


def any_text_as_url(data: bytes) -> None:
    """Text that may be no URL at all."""
    url = text(data)
    assert hide(hide(url)) == hide(url)
    path = unquoted_path(url)
    assert os.fsencode(path) == unquote_to_bytes(os.fsencode(url))
    if url.partition("://")[0].lower() in SCHEMES[:-1]:  # others are looked for in what is installed
        with contextlib.suppress(kv.ConfigError, kv.InvalidKey):
            _opened(url)


def any_glob(data: bytes) -> None:
    """The glob is what a plain matcher says, and nothing in it can be tried in more ways than there are places."""
    pattern, key = (text(piece)[:24] for piece in pieces(data, 2))
    glob = Glob(pattern)
    if pattern.count("*") < 5:  # the plain matcher tries all ways
        assert glob.matches(key) == matches(pattern, key)
    assert key.startswith(glob.head) or not glob.matches(key)


def any_key(data: bytes) -> None:
    """A key is a key in every backend, or in none; a prefix finds what begins with it."""
    first, second, *names = map(text, pieces(data, 4))
    try:
        key, prefix, path = check_key(first), Listing(second), check_path(name for name in names if name)
    except kv.InvalidKey:
        return
    assert key.encode().decode() == key
    assert fnv1a_64_many([key.encode()] * 33) == [fnv1a_64(key.encode())] * 33
    end = prefix_end(prefix.head)
    assert (prefix.head <= key and (end is None or key < end)) == key.startswith(prefix.head)
    assert SEPARATOR.join(path).split(SEPARATOR) == [*path] or not path
    name = Names("kv", path)
    assert is_entry("kv", name.of(key))
    assert name.key(name.of(key)) == key
    assert all(not path[:depth] or Names("kv", path[:depth]).head != name.head for depth in range(len(path)))


def any_name_in_redis(data: bytes) -> None:
    """What others may have called their keys is ours only as we would have written it."""
    name = b"kv:" + data
    if not is_entry("kv", name):
        return
    way, _, key = data.decode().partition(":")
    path = tuple(unquote_to_bytes(part).decode() for part in way.split("/")) if way else ()
    assert Names("kv", path).of(key) == name


def any_stored_value(data: bytes) -> None:
    """Every codec takes any bytes or says `CorruptData`; what it takes it can write, and read as the same."""
    for codec in _codecs():
        try:
            value = decoded(codec, data, "k")
        except kv.CorruptData:
            continue
        try:
            again = encoded(codec, value, "k")
        except kv.InvalidValue:  # more than was ever written: infinity, or what is nested deeper
            continue
        assert alike(decoded(codec, again, "k"), value)
    try:
        number = to_int(data, "k")
    except kv.NotAnInteger:
        return
    assert str(number).encode() == data


@functools.cache
def _codecs() -> list[codecs.Codec[Any]]:
    return [codec_for(name, kind) for kind, name in KINDS]


def any_number(data: bytes) -> None:
    """Integers of any size are exact, and other numbers what JSON says."""
    number = int.from_bytes(data, "little", signed=True)
    assert loads(digits(number)) == number
    for seconds in (number, number / 1_000 if len(data) < 100 else number):
        try:
            ms = ttl_ms(seconds)
        except kv.InvalidTTL:
            continue
        assert ms is not None
        assert ms - 1 <= seconds * 1_000 <= ms + 1e-6 * ms
    try:
        value = loads(text(data))
    except (ValueError, RecursionError):
        return
    if type(value) is float and value not in (float("inf"), float("-inf")):
        assert loads(dumps(value)) == value


def any_export(data: bytes) -> None:
    """A file is imported as a whole or not at all; and what was imported is exported as it came in."""
    lines = data.split(b"\n")
    for file in (data, signed(*lines), signed(*lines[:-1])):
        with kv.open("memory://", cleanup_interval=None) as store:
            store.set("here before", b"1")
            try:
                load(store, file, replace=True)
            except (kv.CorruptData, kv.InvalidKey):
                assert contents(store) == {(): {"here before": (b"1", None)}}
                continue
            tree = contents(store)
            with kv.open("memory://", cleanup_interval=None) as other:
                load(other, exported(store))
                assert contents(other).keys() == tree.keys()


def any_sealed_value(data: bytes) -> None:
    """What somebody put in place of a sealed value does not open, and costs no more memory than it may."""
    with kv.open("memory://", cleanup_interval=None) as store:
        packed = Compressed(store, max_size=1_000)
        for stored in (data, b"\xf8" + data, b"\xf8\x28\xb5\x2f\xfd" + data):
            store.set("k", stored)
            try:
                value = packed.get("k")
            except kv.CorruptData:
                continue
            assert value is not None
            assert len(value) <= max(1_000, len(stored))
        packed.set("k", data)
        assert packed.get("k") == data
        assert (packed.size("k"), store.size("k")) <= (len(data), len(data) + 1)
    ring, head = _ring()
    for stored in (data, head[:4] + data, head + data):
        try:
            ring.open((), "k", stored)
        except kv.CorruptData:
            continue
        raise AssertionError("something opens that was never sealed")
    assert ring.open((), "k", ring.seal((), "k", data)) == data


@functools.cache
def _ring() -> tuple[KeyRing, bytes]:
    ring = KeyRing(b"k" * 32)
    return ring, ring.seal((), "k", b"")[:12]


def any_keys(data: bytes) -> None:
    """Text that is to be encryption keys is read or refused, and never told."""
    for keys in (text(data).replace("file:", ""), text(b64encode(data))):
        try:
            ring = KeyRing([keys])
        except kv.ConfigError as e:
            if len(data) > 8 and "env:" not in keys:
                tells_no(text(data), e)
            continue
        assert repr(ring).startswith("<KeyRing of ")


def any_answer(data: bytes) -> None:
    """Answers of Redis are read alike however they are cut, and each as redis-py reads it."""
    try:
        answers, taken = wire.plain(data, 100)
    except ValueError:  # no number where one must be
        return
    for end in {taken, taken // 2, max(0, taken - 1)}:
        some, size = wire.plain(data[:end], 100)
        rest, more = wire.plain(data[size:], 100 - len(some))
        assert (some + rest, size + more) == (answers, taken)
    start = 0
    for answer in answers:
        _, size = wire.plain(data[start:], 1)
        one = data[start : start + size]
        if re.match(rb"(\$(\d+|-1)|:-?\d+|\+[^\r\n]*|_)\r\n", one):  # as servers write them
            assert asyncio.run(_by_redis_py(one)) == answer
        start += size
    assert start == taken
    commands = [("MSET", *data.split(b"\0")), ("GET", data, 5)]
    connection: Any = redis.connection
    assert b"".join(wire.packed(commands)) == b"".join(connection.Connection().pack_commands(commands))


async def _by_redis_py(data: bytes) -> Any:
    encoder: Any = Encoder
    parser: Any = (_AsyncRESP2Parser if data.startswith(b"$-") else _AsyncRESP3Parser)(65_536)
    parser._stream, parser.encoder = asyncio.StreamReader(), encoder("utf-8", "strict", decode_responses=False)
    parser._connected = True
    parser._stream.feed_data(data)
    parser._stream.feed_eof()
    return await parser.read_response(disable_decoding=True)


WORDS = (
    *("get", "set", "add", "delete", "pop", "increment", "ttl", "expire", "persist", "exists", "size", "keys", "scan"),
    *("count", "clear", "stats", "cleanup", "compact", "verify", "namespaces", "import", "export", "backup", "ddl"),
    *("update-from-stdin", "copy", "reencrypt", "--url", "memory://", "sqlite://", "--namespace", "--help", "--json"),
    *("--match", "--ttl", "--limit", "--after", "--prefix", "--replace", "--resume", "--verify", "-o", "-n", "--", "-"),
)


def any_command_line(data: bytes) -> None:
    """Whatever is typed, the program ends with 0, 1 or 2, and says what is wrong in one line."""
    words, _, stdin = data.partition(b"\0\0")
    args = [
        WORDS[word[0] % 64 % len(WORDS)] if len(word) == 1 else text(word).replace("/", "_")
        for word in words.split(b"\0")
    ]
    if "demo" in args:  # starts processes
        return
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            answer = call("--url", "memory://", *args, stdin=stdin)
        finally:
            os.chdir(before)
    assert answer.code in (0, 1, 2), answer
    assert "Traceback" not in answer.err
    if answer.code == 2:
        assert answer.err.startswith("kv: ") or "\nkv: " in answer.err, answer
        assert answer.err.endswith("\n")


TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "urls": (
        any_url,
        (
            b"\0u\0a\0b\0h:5432/db?table=t&sslmode=require",
            b"x\0u\0%41\0:\0h:6379/0?protocol=3",
            b"xx\0\0\0\0h:1,h:2?prefix=a",
            b"xxxxx\0\0\0\0?max_entries=5&namespace=a",
            b"\0u\0[\0]\0[::1]:5432,h2/db?connect_timeout=5",
        ),
    ),
    "texts": (any_text_as_url, (b"host=h password='a b' port=5", b"postgres://u:p", b"sqlite:///a%20b?x=1", b"u:p@h")),
    "globs": (any_glob, (b"a*[!b-c]?\\*\0abc", b"[]a]*\0]", b"*a*b*c\0aabbcc", "[é-😀]*\0é".encode())),
    "keys": (any_key, (b"user:1\0user\0a\0b", "é😀\0é\0a:b/c%\0".encode())),
    "names": (any_name_in_redis, (b":user:1", b"a/b%3Ac:k", b"a%2Fb%25:k")),
    "codecs": (
        any_stored_value,
        (b'{"a":[1,2.5,null,"x"]}', b"\0raw", b"42", b"-9223372036854775808", b"\x81\xa1a\x92\x01\xc0", b"1e400"),
    ),
    "numbers": (any_number, (b"\xff" * 9, b"1e308", b"-0.0", b"[1,[2]]")),
    "exports": (
        any_export,
        (
            b'{"key":"a","value":"b"}\n{"key":"c","base64":"/w==","expires_at":4102444800000}',
            b'{"namespace":["n","m"],"key":"a","value":"\\u0000"}',
            b'{"format":"anykv","version":1}\n{"end":true,"entries":0,"sha256":""}\n',
        ),
    ),
    "sealed": (any_sealed_value, (b"", b"\xf8\xf8", b"a" * 200, b"\x24\xc8\x45\x00\x00" + b"a" * 8)),
    "secrets": (any_keys, (b64encode(b"k" * 32), b"env:NOSUCH", b64encode(b"a" * 32) + b"," + b64encode(b"b" * 32))),
    "answers": (
        any_answer,
        (b"$3\r\nabc\r\n:5\r\n+OK\r\n$-1\r\n_\r\n-ERR no\r\n", b"$0\r\n\r\n:-1\r\n", b"*1\r\n:1\r\n"),
    ),
    "commands": (any_command_line, (b"set\0k\0v\0--ttl\x005", b"import\0-\0\0{}", b"scan\0--match\0*\0--limit\x002")),
}
"""Of each kind of input what is done with it, and what it may look like."""
