"""What the async store asks of Redis, through redis.asyncio. What the driver raises becomes ours here."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from redis import exceptions
from redis.asyncio.cluster import ClusterNode
from redis.cluster import PRIMARY

from kv.backends import pools
from kv.backends.gathering import Gatherings
from kv.errors import KVError

from .commands import LAYOUT, scan
from .errors import DRIVER_ERRORS, connecting
from .replies import plain
from .routing import ALONE, Address, Batch, Layout, Plan, Slots
from .turns import AsyncTurns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kv.backends.gathering import Waiting
    from kv.backends.pools import Life

    from .commands import Command
    from .server import Server


class Session(pools.AsyncSession):
    """A connection of redis.asyncio's in the hands of one operation."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def watch(self) -> None:
        """Be able to see whether the server has ended the connection."""
        socket = self.connection._writer.transport.get_extra_info("socket")
        self._ended = pools.watched(socket.fileno())

    def fresh(self) -> bool:
        """Whether the connection is open, before anything is sent that nobody would know the fate of."""
        connection = self.connection
        return connection.is_connected and not connection._writer.is_closing() and not self._ended()

    def usable(self) -> bool:
        """Whether the connection may be used again after an operation."""
        connected: bool = self.connection.is_connected
        return connected

    def terminate(self) -> None:
        """Close the connection at once."""
        if self.connection.is_connected:
            self.connection._parser.on_disconnect()
            self.connection._close()

    async def goodbye(self) -> None:
        """Close the connection in good order."""
        writer = self.connection._writer
        try:
            with suppress(*DRIVER_ERRORS):
                await self.connection.disconnect()
        finally:
            if writer is not None:  # a server that says nothing more has not closed its side of TLS
                writer.transport.abort()

    def sever(self) -> None:
        """Close the socket of a connection whose loop is closed."""
        writer = self.connection._writer
        self.connection._writer = self.connection._reader = None
        transport = writer.transport
        with suppress(RuntimeError):
            transport.abort()  # says that it is closed, and would leave the rest to its loop
        tls = getattr(transport, "_ssl_protocol", None)
        (tls._transport if tls else transport)._call_connection_lost(None)

    async def one(self, args: tuple[Any, ...]) -> Any:
        """Send a command and give its answer; an error of the server's is raised."""
        connection = self.connection
        await self._send(connection.pack_command(*args))
        return await connection.read_response(disable_decoding=True)

    async def answer(self, batch: list[Waiting[Command]]) -> None:
        """Send commands together and give each its answer, an error of the server's too, as it comes."""
        connection = self.connection
        await self._send(connection.pack_commands([one.asks.args for one in batch]))
        left = deque(batch)
        while left:
            for answer in self._arrived(len(left)):
                left.popleft().done((True, answer))
            if left:
                try:
                    answer = await connection.read_response(disable_decoding=True)
                except exceptions.ResponseError as e:
                    answer = e
                left.popleft().done((True, answer))

    def _arrived(self, most: int) -> list[Any]:
        """Take the answers that are whole and plain from what has been received, without a wait for each.

        redis-py, which takes seven times as long, reads what comes then: the rest of one, errors, lists, pushed messages.
        """
        reader = self.connection._reader
        buffer: bytearray | None = getattr(reader, "_buffer", None)
        if not buffer or getattr(self.connection._parser, "_buffer", None) != b"":
            return []
        answers, taken = plain(bytes(buffer), most)
        if taken:
            del buffer[:taken]
            reader._maybe_resume_transport()
        return answers

    async def several(self, sent: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands together and give their answers, errors of the server's among them."""
        connection = self.connection
        await self._send(connection.pack_commands(sent))
        received: list[Any] = []
        for _ in sent:
            try:
                received.append(await connection.read_response(disable_decoding=True))
            except exceptions.ResponseError as e:
                received.append(e)
        return received

    async def _send(self, packed: list[bytes]) -> None:
        """Send what is packed. redis-py waits with `wait_for`, where Python before 3.12 may lose a cancellation."""
        connection = self.connection
        try:
            connection._writer.writelines(packed)
            async with asyncio.timeout(connection.socket_timeout):
                await connection._writer.drain()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise


def ended(connection: Any) -> bool:
    """Whether the server has ended a connection of somebody else's, which nobody has watched."""
    writer = connection._writer
    return writer.is_closing() or pools.watched(writer.get_extra_info("socket").fileno())()


class Source(Protocol):
    """Where the sessions of one server come from."""

    async def take(self) -> Session:
        """Give a session, for one operation."""
        ...

    async def give(self, session: Session) -> None:
        """Take it back, also where its connection is closed."""

    async def close(self) -> None:
        """Close what was opened here."""

    async def leave(self) -> None:
        """Close what was opened here in the loop that is running."""


class Own(pools.AsyncPool[Session]):
    """Connections of our own to one server."""

    def __init__(self, make: Callable[[], Any], server: Server, life: Life) -> None:
        super().__init__(shown=server.shown, most=server.most, timeout=server.timeout, life=life)
        self._make = make

    async def _connect(self) -> Session:
        connection = self._make()
        try:
            await connection.connect()
            session = Session(connection)
            session.watch()
        except DRIVER_ERRORS as e:
            await connection.disconnect(nowait=True)
            raise connecting(e, self.shown) from e
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return session


class Borrowed:
    """Connections of somebody else's pool to one server."""

    def __init__(self, pool: Any, server: Server, life: Life) -> None:
        self._pool = pool
        self._shown = server.shown
        self._life = life

    async def take(self) -> Session:
        self._life.check_open()
        try:
            session = Session(await self._pool.get_connection())
            try:
                if ended(session.connection):  # the pool sees what its loop has read, and no more
                    await session.connection.disconnect(nowait=True)
                    await session.connection.connect()
            except BaseException:
                await self.give(session)
                raise
        except DRIVER_ERRORS as e:
            raise connecting(e, self._shown) from e
        return session

    async def give(self, session: Session) -> None:
        await asyncio.shield(self._pool.release(session.connection))  # or who is cancelled twice would lose it

    async def close(self) -> None:
        pass

    leave = close


class NodePool:
    """A node of somebody else's cluster client, as a pool."""

    def __init__(self, client: Any, address: Address) -> None:
        self._client = client
        self._address = address
        self._taken: dict[Any, Any] = {}  # from which nodes: the client may put another one in its place

    async def get_connection(self) -> Any:
        node = await self._node()
        connection = node.acquire_connection()
        try:
            await connection.connect()
        except BaseException:
            node.release(connection)
            raise
        self._taken[connection] = node
        return connection

    async def release(self, connection: Any) -> None:
        self._taken.pop(connection).release(connection)

    async def _node(self) -> Any:
        client = self._client
        await client.initialize()
        if (node := client.get_node(*self._address)) is None:
            await client.nodes_manager.initialize()
            node = client.get_node(*self._address)
        if node is None:  # one that is just being given its first slot
            node = ClusterNode(*self._address, PRIMARY, **client.nodes_manager.connection_kwargs)
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
        self.turns = AsyncTurns()
        self._sources: dict[Address, Source] = {}
        self._gatherings: dict[Address, Gatherings[Command]] = {}
        self._opening: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

    async def open(self) -> None:
        """Do what comes before the first operation."""
        self.check_open()
        async with self._opening.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if not self.life.started:
                await self._start()
                self.life.started = True

    async def _start(self) -> None:
        """Connect, and see what is there."""
        address = ALONE if self.slots.alone else await self.learn()
        (said,) = await self.at(address, [("INFO",)])
        self.server.judge(said)

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

    async def call(self, command: Command) -> Any:
        """Send one command and give its answer."""
        if not self.life.started:
            await self.open()
        if self.slots.stale:
            await self.learn()
        address = self.slots.of(command.name)
        gathering = self._gathering(address).here()
        sent, answer = await gathering.go(command, partial(self._alone, address, command))
        return await self._go_on(command, answer, sent=sent) if isinstance(answer, Exception) else answer

    def _gathering(self, address: Address) -> Gatherings[Command]:
        found = self._gatherings.get(address)
        if found is None:
            # whoever calls holds the database; a circle would keep it open when nobody does
            send = partial(Database._together, weakref.proxy(self), address)
            found = self._gatherings.setdefault(address, Gatherings(send))
        return found

    async def _alone(self, address: Address, command: Command) -> tuple[bool, Any]:
        """Send one command. Gives whether it was sent, and its answer or what it met."""
        try:
            source = self._source(address)
            session = await source.take()
        except KVError as e:
            return False, e
        try:
            answer = await session.one(command.args)
        except BaseException as e:
            await source.give(session)
            if not isinstance(e, DRIVER_ERRORS):
                raise
            return True, e
        await source.give(session)
        return True, answer

    async def _together(self, address: Address, batch: list[Waiting[Command]]) -> None:
        """Send what has waited. Each of its callers goes on by himself with what `_alone` would have given him."""
        try:
            source = self._source(address)
            session = await source.take()
        except BaseException as e:
            settle(batch, e, sent=False)
            return
        try:
            await session.answer(batch)
        except BaseException as e:
            session.terminate()  # or who comes next would read the answers that are left
            settle(batch, e, sent=True)
        finally:
            await source.give(session)

    async def _go_on(self, command: Command, error: BaseException, *, sent: bool = True) -> Any:
        """Go on with a command after what its first try met."""
        plan = Plan([command], self.slots, self.shown, self.timeout)
        (batch,) = plan.batches()
        if isinstance(error, exceptions.ResponseError):
            plan.took(batch, [error])
        else:
            plan.failed(batch, error, sent=sent)
        return (await self._run(plan))[0]

    async def calls(self, asked: Sequence[Command]) -> list[Any]:
        """Send commands, those for one server together, and give their answers in turn. Not one step."""
        if not self.life.started:
            await self.open()
        if not asked:
            self.check_open()
            return []
        if len(asked) == 1:
            return [await self.call(asked[0])]
        return await self._run(Plan(asked, self.slots, self.shown, self.timeout))

    async def _run(self, plan: Plan) -> list[Any]:
        while True:
            if plan.lost_its_way:
                try:
                    await self.learn()
                except KVError as e:
                    plan.give_up(e)
            batches = plan.batches()
            if not batches:
                return plan.answers
            if plan.wait:
                await asyncio.sleep(plan.wait)
            if len(batches) == 1:
                await self._send(plan, batches[0])
            else:
                await all_of(self._send(plan, batch) for batch in batches)

    async def _send(self, plan: Plan, batch: Batch) -> None:
        try:
            source = self._source(batch.address)
            session = await source.take()
        except KVError as e:
            plan.failed(batch, e, sent=False)
            return
        try:
            received = await session.several(batch.sent)
        except BaseException as e:
            await source.give(session)
            if not isinstance(e, DRIVER_ERRORS):
                raise
            plan.failed(batch, e, sent=True)
            return
        await source.give(session)
        plan.took(batch, received)

    async def at(self, address: Address, sent: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands that read to one server; a second time where the first is lost."""
        source = self._source(address)
        received: list[Any] = []
        for last in (False, True):
            session = await source.take()
            try:
                received = await session.several(sent)
                break
            except DRIVER_ERRORS as e:
                if last:
                    raise connecting(e, self.shown) from e
            finally:
                await source.give(session)
        for answer in received:
            if isinstance(answer, exceptions.ResponseError):
                raise connecting(answer, self.shown) from answer
        return received

    async def learn(self) -> Address:
        """Ask one of the servers which are where, and give that one."""
        error: KVError | None = None
        if self.server.client is not None:
            try:
                await self.server.client.initialize()
            except DRIVER_ERRORS as e:
                raise connecting(e, self.shown) from e
            self.slots.seeds = self.server.nodes()
        for address in self.slots.known:
            try:
                (answer,) = await self.at(address, [("CLUSTER", "SLOTS")])
            except KVError as e:
                self.check_open()
                self.slots.doubt(address)
                error = error or e
                continue
            self.slots.learn(answer, address)
            if not self.slots.stale:
                for gone in {*self._sources} - {*self.slots.known}:
                    await self._sources[gone].close()
                return address
        raise self.server.unknown(error)

    async def scan(self, pattern: bytes, *, strings: bool = True) -> set[bytes]:
        """Give every key that matches, of every server, each once.

        Where slots are on their way from one server to another, all are asked twice: a key that goes meanwhile is where
        it was the first time, or where it is now the second.
        """
        found: set[bytes] = set()
        before = await self._layout()
        await self._scan(found, before, pattern, strings=strings)
        after = await self._layout()
        if before.moving or after != before:
            await self._scan(found, after, pattern, strings=strings)
        return found

    async def _scan(self, found: set[bytes], layout: Layout, pattern: bytes, *, strings: bool) -> None:
        async def of(address: Address) -> None:
            cursor: Any = b"0"
            while True:
                ((cursor, names),) = await self.at(address, [scan(cursor, pattern, strings=strings)])
                found.update(names)
                if cursor == b"0":
                    return

        await all_of(of(address) for address in layout.servers)

    async def _layout(self) -> Layout:
        """Give which server has what now: of those that came lately no error tells."""
        if not self.life.started:
            await self.open()
        self.check_open()
        if self.slots.alone:
            return Layout()
        await self.learn()
        primaries = self.slots.primaries
        said = await all_of(self.at(address, LAYOUT) for address in primaries)
        return self.slots.layout(zip(primaries, said, strict=True))

    async def everywhere(self, *args: Any) -> None:
        """Send a command to every server."""
        for address in (await self._layout()).servers:
            await self.at(address, [args])

    async def leave(self) -> None:
        """Close the connections of the loop that is running."""
        for source in [*self._sources.values()]:
            await source.leave()

    async def close(self) -> None:
        self.life.closed = True
        for source in [*self._sources.values()]:
            await source.close()


def settle(batch: list[Waiting[Command]], error: BaseException, *, sent: bool) -> None:
    """Tell those that have no answer yet what became of all. What is no error of the driver's or of ours is raised here too."""
    known = isinstance(error, (*DRIVER_ERRORS, KVError))
    for one in batch:
        if known:
            one.done((sent, error))
        else:
            one.failed(error)
    if not known:
        raise error


async def all_of(calls: Any) -> list[Any]:
    """Run them side by side, to the end of each, and give what they gave, or raise what the first that failed raised."""
    results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def open_database(server: Server) -> Database:
    """Give the database behind a URL or a client."""
    return Database(server, pools.Life(server.shown, started=False))
