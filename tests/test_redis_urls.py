"""Where the Redis server is, in every way to say it, TLS among them, and what is said where it is not or refuses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit

import pytest
import servers
import trustme
from colours import both, run
from programs import python
from proxy import Proxy

import kv
from kv.testing.suite import bounded, lifted, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Opens = Callable[..., Any]

PASSWORD = "secr3t #@/?%41:&+é"
SAID = quote(PASSWORD, safe="")


@pytest.fixture(scope="module")
def own() -> Iterator[servers.Redis]:
    """A server with a user."""
    server = servers.own_redis()
    server.call("ACL", "SETUSER", "keep/er", "on", "allcommands", "allkeys", f">{PASSWORD}")
    yield server
    server.close()


async def nothing(store: kv.AsyncStore) -> None:
    """What one does to see whether a store can be opened."""


def refused(opens: Opens, url: str, kind: type[kv.KVError], **options: object) -> str:
    """What is said where a store cannot be opened; it tells no password."""
    with pytest.raises(kind) as caught:
        run(opens(url, **options), nothing)
    chain: list[BaseException] = [caught.value]
    while error := chain[-1].__cause__:
        chain.append(error)
    for error in chain:
        for secret in (PASSWORD, SAID, "secr3t", "wr0ng"):
            assert secret not in str(error)
    return str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:{port}",
        "redis://127.0.0.1:{port}/",
        "REDIS://localhost:{port}/0?socket_timeout=5&socket_connect_timeout=2.5&socket_keepalive=yes",
        "redis://keep%2Fer:{said}@127.0.0.1:{port}/0",
        "redis://127.0.0.1:{port}?username=keep/er&password={said}",
        "redis://keep%2Fer@127.0.0.1:{port}/0?password={said}&protocol=3",
        "redis://127.0.0.1:{port}/0?protocol=2&client_name=a%25b&socket_read_size=1024",
        "unix://{socket}",
        "unix://{socket}?db=0&username=keep/er&password={said}",
        "unix://keep%2Fer:{said}@{socket}",
    ],
)
@both
def test_every_way_to_say_where_it_is_leads_there(opens: Opens, own: servers.Redis, url: str) -> None:
    url = url.format(port=own.port, socket=own.socket, said=SAID)

    async def body(store: kv.AsyncStore) -> None:
        await store.set("k", url.encode())
        assert own.call("GET", "kv::k") == url.encode()
        told = str(own.call("ACL", "LOG")) + repr(store) + repr(getattr(store, "_store", store))
        assert "redis" in told.lower() or "unix" in told
        assert SAID not in told
        assert PASSWORD not in told
        clients = own.call("CLIENT", "LIST").decode().splitlines()
        user = "keep/er" if said_user else "default"
        assert [one for one in clients if f" user={user} " in one and "cmd=set" in one]
        if "client_name" in url:
            assert [one for one in clients if " name=a%b " in one]

    said_user = "/er" in url or "%2Fer" in url
    run(opens(url), body)


@both
def test_databases_are_apart(opens: Opens, own: servers.Redis) -> None:
    async def body(store: kv.AsyncStore) -> None:
        await store.set("k", b"here")

    for url in (f"redis://127.0.0.1:{own.port}/7", f"redis://127.0.0.1:{own.port}?db=8", f"unix://{own.socket}?db=9"):
        run(opens(url), body)

    async def other(store: kv.AsyncStore) -> None:
        await store.delete("k")
        assert await store.keys() == []
        assert await store.verify() == []

    run(opens(f"redis://127.0.0.1:{own.port}/6"), other)
    spaces = own.call("INFO", "keyspace")
    assert {name for name in spaces if name in ("db6", "db7", "db8", "db9")} == {"db7", "db8", "db9"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://127.0.0.1:{port}/999", "no such database number"),
        ("unix://{socket}?db=999", "no such database number"),
        ("redis+cluster://127.0.0.1:{port}", "is no Redis Cluster; take redis://"),
        ("redis://u:wr0ng@127.0.0.1:{port}/app", "number of a database"),
        ("redis://u:wr0ng@127.0.0.1:{port}?db=x", "whole number"),
        ("redis://u:wr0ng@127.0.0.1:{port}?protocol=4", "2 or 3"),
        ("redis://u:wr0ng@127.0.0.1:{port}?socket_timeout=soon", "number of seconds"),
        ("redis://u:wr0ng@127.0.0.1:{port}?socket_keepalive=maybe", "true or false"),
        ("redis://u:wr0ng@127.0.0.1:{port}?ssl_ca_certs=ca.pem", "ssl_ca_certs"),
        ("rediss://u:wr0ng@127.0.0.1:{port}?ssl_cert_reqs=maybe", "required"),
        ("redis://u:wr0ng@127.0.0.1:many", "host and port"),
        ("redis://u:wr0ng@127.0.0.1:{port},127.0.0.1:1", r"take redis\+cluster://"),
        ("redis+cluster://u:wr0ng@127.0.0.1:{port}/1", "no database but 0"),
        ("redis://u:wr0ng/x@127.0.0.1:{port}", "%2F"),
        ("redis://u:wr0ng?x@127.0.0.1:{port}", "%3F"),
        ("redis://u:wr0ng#x@127.0.0.1:{port}", "%23"),
        ("redis://u:wr0ng℀@127.0.0.1:{port}", "host and port"),
        ("unix://run/redis.sock", "unix:///"),
        ("unix://", "unix:///"),
        ("redis://127.0.0.1:{port}?socket_timout=1", "socket_timout"),
    ],
)
@both
def test_what_is_no_url_of_a_server_is_said(opens: Opens, own: servers.Redis, url: str, said: str) -> None:
    url = url.format(port=own.port, socket=own.socket)
    with pytest.raises(kv.ConfigError, match=said):
        raise kv.ConfigError(refused(opens, url, kv.ConfigError))
    cls = kv.RedisStore if opens is kv.open else kv.AsyncRedisStore
    refused(cls, url, kv.ConfigError)


@both
def test_an_option_that_is_not_known_is_told_with_those_that_are(opens: Opens) -> None:
    known = ("cleanup_interval", "lock_timeout", "namespace", "pool_max", "prefix")
    said = refused(opens, "redis://localhost?prefx=a", kv.ConfigError)
    assert "Did you mean 'prefix'?" in said
    assert all(name in said for name in known)
    cls = kv.RedisStore if opens is kv.open else kv.AsyncRedisStore
    said = refused(cls, "redis://localhost?user=a", kv.ConfigError)
    assert "Did you mean 'username'?" in said
    assert all(name in said for name in ("client_name", "socket_timeout", "ssl_ca_certs"))
    for options in ({"pool_max": 0}, {"lock_timeout": -1}, {"cleanup_interval": "often"}, {"namespace": ""}):
        with pytest.raises((kv.ConfigError, kv.InvalidKey)):
            opens("redis://nowhere.invalid", **options)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://keep%2Fer:wr0ng@127.0.0.1:{port}", "see the user and the password"),
        ("redis://nobody:wr0ng@127.0.0.1:{port}", "see the user and the password"),
        ("redis://:wr0ng@127.0.0.1:{dead}", "see that the server runs, and its host and port"),
        ("unix://:wr0ng@/nowhere/redis.sock", "see that the server runs"),
        ("redis://u:wr0ng@nowhere.invalid", "nowhere.invalid"),
        ("rediss://u:wr0ng@127.0.0.1:{port}?socket_timeout=0.3&socket_connect_timeout=0.3", "cannot be reached"),
        ("rediss://u:wr0ng@localhost:{tls}", "certificate"),
        ("redis://localhost:{tls}?socket_timeout=5", "cannot be reached"),
    ],
)
@both
def test_what_cannot_be_reached_is_unavailable(
    opens: Opens, own: servers.Redis, secure: Secure, url: str, said: str
) -> None:
    tls = urlsplit(secure.url).port
    url = url.format(port=own.port, dead=servers.free_port(), tls=tls)
    told = refused(opens, url, kv.Unavailable)
    assert said in told
    assert ("***" in told) == ("wr0ng" in url)


def test_a_password_that_is_missing_is_unavailable() -> None:
    server = servers.own_redis(requirepass=PASSWORD.replace(" ", "_"))
    try:
        for opens in (kv.open, kv.open_async):
            assert "see the user and the password" in refused(opens, server.url, kv.Unavailable)
    finally:
        server.close()


@pytest.mark.parametrize("opens", ["open", "open_async"])
def test_a_missing_driver_says_how_to_install_it(opens: str) -> None:
    out = python(
        """
        import sys, kv
        sys.modules["redis"] = None     # as if it were not installed
        for url in ("redis://localhost", "rediss+cluster://localhost", "unix:///tmp/redis.sock"):
            try:
                getattr(kv, sys.argv[1])(url)
            except kv.ConfigError as e:
                print(e)
        """,
        opens,
    )
    assert out.count('pip install "anykv[redis]"') == 3


# TLS


class Secure(NamedTuple):
    """A server that speaks TLS."""

    url: str
    server: servers.Redis
    end: Callable[[], object]
    """Ends all connections."""


@pytest.fixture(scope="module")
def secure(own: servers.Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """A Redis, or where the one that is here was built without TLS, a proxy before it."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    known, certificate = str(folder / "ca.pem"), str(folder / "localhost.pem")
    authority.cert_pem.write_to_path(known)
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    with contextlib.ExitStack() as stack:
        port, server = servers.free_port(), own
        end: Callable[[], object]
        files = {"tls_cert_file": certificate, "tls_key_file": certificate, "tls_ca_cert_file": known}
        try:
            server = servers.own_redis(tls_port=str(port), tls_auth_clients="no", **files)
            stack.callback(server.close)
            end = partial(server.call, "CLIENT", "KILL", "TYPE", "normal")
        except servers.NoServer:
            proxy = stack.enter_context(Proxy(own.port, certificate))
            port, end = proxy.port, proxy.end
        yield Secure(f"rediss://localhost:{port}/0?ssl_ca_certs={quote(known, safe='')}", server, end)


@both
def test_a_store_speaks_tls(opens: Opens, secure: Secure) -> None:
    url = secure.url

    async def body(store: kv.AsyncStore) -> None:
        await store.set("k", os.urandom(1_000_000))
        assert await store.size("k") == len(await store.get("k") or b"") == 1_000_000
        await together(store, *(store.increment("n") for _ in range(20)))
        assert await store.get("n") == b"20"
        assert await store.clear() == 2

    run(opens(url, pool_max=3), body)
    run(opens(url.replace("//localhost", "//127.0.0.1") + "&ssl_min_version=771&protocol=3"), body)
    run(opens(url.partition("?")[0] + "?ssl_cert_reqs=none&ssl_check_hostname=no"), body)


@both
def test_a_store_goes_on_after_the_server_has_ended_its_idle_tls_connections(opens: Opens, secure: Secure) -> None:
    async def body(store: kv.AsyncStore) -> None:
        for n in range(4):
            await together(store, *(store.increment("n") for _ in range(10)))
            secure.end()
            if n % 2:  # the event loop hears of it, and the numbers of the sockets are those of others
                await asyncio.sleep(0.05)
                others = [one for _ in range(20) for one in socket.socketpair()]
            await store.increment("n")  # no OutcomeUnknown: it is seen before anything is sent
            if n % 2:
                for other in others:
                    other.close()
        assert await store.get("n") == b"44"
        await store.clear()

    run(opens(secure.url, pool_max=3), body)


def test_a_store_speaks_tls_in_one_loop_after_the_other(secure: Secure) -> None:
    out = python(
        """
        import asyncio, sys, kv
        store = kv.open_async(sys.argv[1])
        async def work():
            await asyncio.gather(*(store.increment("n") for _ in range(3)))
        for _ in range(3):
            asyncio.run(work())
        print(asyncio.run(store.get("n")))
        asyncio.run(store.aclose())
        """,
        secure.url,
    )
    assert out == "b'9'\n"
    secure.server.call("DEL", "kv::n")


@both
def test_a_store_closes_where_the_server_says_nothing_more(opens: Opens, secure: Secure) -> None:
    def tell(what: int) -> None:
        assert secure.server.process
        secure.server.process.send_signal(what)

    async def main() -> None:
        store = lifted(opens(secure.url + "&socket_connect_timeout=1"))
        await store.set("k", b"v")
        tell(signal.SIGSTOP)
        try:
            await store.aclose()
        finally:
            tell(signal.SIGCONT)
        with pytest.raises(kv.StoreClosed):
            await store.get("k")

    bounded(main, 60)
