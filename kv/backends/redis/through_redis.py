"""What the sync store asks of Redis, through redis-py. What the driver raises becomes ours here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from redis import exceptions
from redis.cluster import PRIMARY, ClusterNode

from kv.backends import pools
from kv.errors import KVError

from .commands import LAYOUT, scan
from .errors import DRIVER_ERRORS, connecting
from .routing import ALONE, Address, Batch, Layout, Plan, Slots
from .turns import Turns
from .wire import packed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kv.backends.pools import Life

    from .commands import Command
    from .server import Server


class Session(pools.Session):
    """A connection of redis-py's in the hands of one operation."""

    connection: Any = None
    ended: Callable[[], bool]
    """Whether the server has ended the connection."""

    def use(self, connection: Any) -> None:
        self.connection = connection
        self.ended = pools.watched(connection._sock.fileno())

    def fresh(self) -> bool:
        """Whether the connection is open, before anything is sent that nobody would know the fate of."""
        return not self.ended()

    def disconnect(self) -> None:
        """Close the connection, if it was ever made."""
        if self.connection is not None:
            self.connection.disconnect()

    def one(self, args: tuple[Any, ...]) -> Any:
        """Send a command and give its answer; an error of the server's is raised."""
        connection = self.connection
        connection.send_packed_command([*packed([args])], check_health=False)
        return connection.read_response(disable_decoding=True)

    def several(self, sent: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands together and give their answers, errors of the server's among them."""
        connection = self.connection
        connection.send_packed_command([*packed(sent)], check_health=False)
        received: list[Any] = []
        for _ in sent:
            try:
                received.append(connection.read_response(disable_decoding=True))
            except exceptions.ResponseError as e:
                received.append(e)
        return received


class Source(Protocol):
    """Where the sessions of one server come from."""

    def take(self) -> Session:
        """Give a session, for one operation."""
        ...

    def give(self, session: Session) -> None:
        """Take it back."""

    def end(self, session: Session, error: BaseException | None = None, /) -> None:
        """Take it back when its connection cannot be used again, after this error."""

    def close(self) -> None:
        """Close what was opened here."""


class Own(pools.Pool[Session]):
    """Connections of our own to one server."""

    silence = exceptions.TimeoutError

    def __init__(self, make: Callable[[], Any], server: Server, life: Life) -> None:
        super().__init__(Session, shown=server.shown, most=server.most, timeout=server.timeout, life=life)
        self._connection = make

    def _connect(self, session: Session) -> None:
        connection = self._connection()
        try:
            connection.connect()
            session.use(connection)
        except DRIVER_ERRORS as e:
            connection.disconnect()
            raise connecting(e, self.shown) from e
        except BaseException:
            connection.disconnect()
            raise


class Borrowed:
    """Connections of somebody else's pool to one server."""

    def __init__(self, pool: Any, server: Server, life: Life) -> None:
        self._pool = pool
        self._shown = server.shown
        self._life = life

    def take(self) -> Session:
        self._life.check_open()
        session = Session()
        try:
            session.connection = self._pool.get_connection()
        except DRIVER_ERRORS as e:
            raise connecting(e, self._shown) from e
        return session

    def give(self, session: Session) -> None:
        self._pool.release(session.connection)

    def end(self, session: Session, *_: object) -> None:
        session.disconnect()  # the pool connects it again
        self.give(session)

    def close(self) -> None:
        pass


class NodePool:
    """A node of somebody else's cluster client, as a pool."""

    def __init__(self, client: Any, address: Address) -> None:
        self._client = client
        self._address = address
        self._taken: dict[Any, Any] = {}  # from which clients: they close all theirs when they are garbage

    def get_connection(self) -> Any:
        client = self._client.get_redis_connection(self._node())
        connection = client.connection_pool.get_connection()
        self._taken[connection] = client
        return connection

    def release(self, connection: Any) -> None:
        self._taken.pop(connection).connection_pool.release(connection)

    def _node(self) -> Any:
        client = self._client
        if (node := client.get_node(*self._address)) is None:
            client.nodes_manager.initialize()
            node = client.get_node(*self._address)
        if node is None:  # one that is just being given its first slot
            node = ClusterNode(*self._address, PRIMARY)  # type: ignore[no-untyped-call]
            client.nodes_manager.nodes_cache[node.name] = node
        return node


class Database:
    """What a store asks: commands to one server, or to those of a cluster."""

    def __init__(self, server: Server, life: Life) -> None:
        self.server = server
        self.shown = server.shown
        self.timeout = server.timeout
        self.life = life
        self.check_open = life.check_open
        self.slots = Slots(server.seeds)
        self.turns = Turns()
        self._sources: dict[Address, Source] = {}
        self._alone = self._source(ALONE) if self.slots.alone else None

    def _source(self, address: Address) -> Source:
        source = self._sources.get(address)
        if source is None:
            source = self._sources.setdefault(address, self._made(address))
        return source

    def _made(self, address: Address) -> Source:
        client = self.server.client
        if client is None:
            return Own(self.server.maker(address), self.server, self.life)
        pool = getattr(client, "connection_pool", client) if address == ALONE else NodePool(client, address)
        return Borrowed(pool, self.server, self.life)

    def start(self) -> None:
        """Connect, and see what is there."""
        address = ALONE if self.slots.alone else self.learn()
        (said,) = self.at(address, [("INFO",)])
        self.server.judge(said)

    def call(self, command: Command) -> Any:
        """Send one command and give its answer."""
        if self.slots.stale:
            self.learn()
        try:
            source = self._alone or self._source(self.slots.of(command.name))
            session = source.take()
        except KVError as e:
            return self._go_on(command, e, sent=False)
        try:
            answer = session.one(command.args)
        except exceptions.ResponseError as e:
            source.give(session)
            return self._go_on(command, e)
        except BaseException as e:
            source.end(session, e)
            if not isinstance(e, DRIVER_ERRORS):
                raise
            return self._go_on(command, e)
        source.give(session)
        return answer

    def _go_on(self, command: Command, error: BaseException, *, sent: bool = True) -> Any:
        """Go on with a command after what its first try met."""
        plan = Plan([command], self.slots, self.shown, self.timeout)
        (batch,) = plan.batches()
        if isinstance(error, exceptions.ResponseError):
            plan.took(batch, [error])
        else:
            plan.failed(batch, error, sent=sent)
        return self._run(plan)[0]

    def calls(self, asked: Sequence[Command]) -> list[Any]:
        """Send commands, those for one server together, and give their answers in turn. Not one step."""
        if not asked:
            self.check_open()
            return []
        if len(asked) == 1:
            return [self.call(asked[0])]
        return self._run(Plan(asked, self.slots, self.shown, self.timeout))

    def _run(self, plan: Plan) -> list[Any]:
        while True:
            if plan.lost_its_way:
                try:
                    self.learn()
                except KVError as e:
                    plan.give_up(e)
            batches = plan.batches()
            if not batches:
                return plan.answers
            if plan.wait:
                time.sleep(plan.wait)
            for batch in batches:
                self._send(plan, batch)

    def _send(self, plan: Plan, batch: Batch) -> None:
        try:
            source = self._source(batch.address)
            session = source.take()
        except KVError as e:
            plan.failed(batch, e, sent=False)
            return
        try:
            received = session.several(batch.sent)
        except BaseException as e:
            source.end(session, e)
            if not isinstance(e, DRIVER_ERRORS):
                raise
            plan.failed(batch, e, sent=True)
            return
        source.give(session)
        plan.took(batch, received)

    def at(self, address: Address, sent: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands that read to one server; a second time where the first is lost."""
        source = self._source(address)
        received: list[Any] = []
        for last in (False, True):
            session = source.take()
            try:
                received = session.several(sent)
            except BaseException as e:
                source.end(session, e)
                if not isinstance(e, DRIVER_ERRORS):
                    raise
                if last:
                    raise connecting(e, self.shown) from e
            else:
                source.give(session)
                break
        for answer in received:
            if isinstance(answer, exceptions.ResponseError):
                raise connecting(answer, self.shown) from answer
        return received

    def learn(self) -> Address:
        """Ask one of the servers which are where, and give that one."""
        error: KVError | None = None
        if self.server.client is not None:
            self.slots.seeds = self.server.nodes()
        for address in self.slots.known:
            try:
                (answer,) = self.at(address, [("CLUSTER", "SLOTS")])
            except KVError as e:
                self.check_open()
                self.slots.doubt(address)
                error = error or e
                continue
            self.slots.learn(answer, address)
            if not self.slots.stale:
                for gone in {*self._sources} - {*self.slots.known}:
                    self._sources[gone].close()
                return address
        raise self.server.unknown(error)

    def scan(self, pattern: bytes, *, strings: bool = True) -> set[bytes]:
        """Give every key that matches, of every server, each once.

        Where slots are on their way from one server to another, all are asked twice: a key that goes meanwhile is where
        it was the first time, or where it is now the second.
        """
        found: set[bytes] = set()
        before = self._layout()
        self._scan(found, before, pattern, strings=strings)
        after = self._layout()
        if before.moving or after != before:
            self._scan(found, after, pattern, strings=strings)
        return found

    def _scan(self, found: set[bytes], layout: Layout, pattern: bytes, *, strings: bool) -> None:
        for address in layout.servers:
            cursor: Any = b"0"
            while True:
                ((cursor, names),) = self.at(address, [scan(cursor, pattern, strings=strings)])
                found.update(names)
                if cursor == b"0":
                    break

    def _layout(self) -> Layout:
        """Give which server has what now: of those that came lately no error tells."""
        self.check_open()
        if self.slots.alone:
            return Layout()
        self.learn()
        return self.slots.layout([(address, self.at(address, LAYOUT)) for address in self.slots.primaries])

    def everywhere(self, *args: Any) -> None:
        """Send a command to every server."""
        for address in self._layout().servers:
            self.at(address, [args])

    def close(self) -> None:
        self.life.closed = True
        for source in [*self._sources.values()]:
            source.close()


def open_database(server: Server) -> Database:
    """Give the database behind a URL or a client."""
    return Database(server, pools.Life(server.shown))
