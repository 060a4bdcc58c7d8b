"""Connections of redis.asyncio: what one operation does with one, and where it comes from."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from redis import exceptions
from redis.asyncio.cluster import ClusterNode
from redis.cluster import PRIMARY

from kv.backends import pools

from .errors import DRIVER_ERRORS, connecting
from .wire import packed, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kv.backends.gathering import Batch
    from kv.backends.pools import Life

    from .commands import Command
    from .routing import Address
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
        await self._send([args])
        return await connection.read_response(disable_decoding=True)

    async def answer(self, batch: Batch[Command]) -> None:
        """Send commands together and give each its answer, an error of the server's too, as it comes."""
        connection = self.connection
        await self._send(one.asks.args for one in batch)
        left = deque(batch)
        try:
            while left:
                for answer in self._arrived(len(left)):
                    left.popleft().done((True, answer))
                if left:
                    try:
                        answer = await connection.read_response(disable_decoding=True)
                    except exceptions.ResponseError as e:
                        answer = e
                    left.popleft().done((True, answer))
        except BaseException:  # whatever it is: the answers that are still to come are nobody else's
            self.terminate()
            raise

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
        await self._send(sent)
        received: list[Any] = []
        for _ in sent:
            try:
                received.append(await connection.read_response(disable_decoding=True))
            except exceptions.ResponseError as e:
                received.append(e)
        return received

    async def _send(self, commands: Iterable[tuple[Any, ...]]) -> None:
        """Send commands. redis-py waits with `wait_for`, where Python before 3.12 may lose a cancellation."""
        connection = self.connection
        writer = connection._writer
        try:
            for piece in packed(commands):
                writer.write(piece)
                if writer.transport.get_write_buffer_size():  # what the socket has not taken
                    async with asyncio.timeout(connection.socket_timeout):
                        await writer.drain()
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

    async def give(self, session: Session, error: BaseException | None = None, /) -> None:
        """Take it back, also where its connection is closed, after this error."""

    async def close(self) -> None:
        """Close what was opened here."""

    async def leave(self) -> None:
        """Close what was opened here in the loop that is running."""


class Own(pools.AsyncPool[Session]):
    """Connections of our own to one server."""

    silence = exceptions.TimeoutError, TimeoutError

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

    async def give(self, session: Session, *_: object) -> None:
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
