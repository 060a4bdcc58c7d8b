"""What the async store asks of Redis, through redis.asyncio. What the driver raises becomes ours here."""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from redis import exceptions

from kv.backends import pools
from kv.backends.gathering import Gatherings, Opening, own
from kv.errors import KVError

from .commands import LAYOUT, scan
from .errors import DRIVER_ERRORS, connecting
from .redis_asyncio_sources import Borrowed, NodePool, Own
from .routing import ALONE, Address, Batch, Layout, Plan, Slots
from .turns import AsyncTurns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kv.backends.gathering import Batch as Gathered
    from kv.backends.pools import Life

    from .commands import Command
    from .redis_asyncio_sources import Source
    from .server import Server


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
        self._opening: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Opening] = weakref.WeakKeyDictionary()

    async def open(self) -> None:
        """Do what comes before the first operation."""
        self.check_open()
        await self._opening.setdefault(asyncio.get_running_loop(), Opening()).wait(self.life, self._start)

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
        return await self._go_on(command, address, answer, sent=sent) if isinstance(answer, Exception) else answer

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
            await source.give(session, e)
            if not isinstance(e, DRIVER_ERRORS):
                raise
            return True, e
        await source.give(session)
        return True, answer

    async def _together(self, address: Address, batch: Gathered[Command]) -> None:
        """Send what has waited. Each of its callers goes on by himself with what `_alone` would have given him."""
        try:
            source = self._source(address)
            session = await source.take()
        except (*DRIVER_ERRORS, KVError, asyncio.CancelledError) as e:
            settle(batch, e, sent=False)
            return
        error: BaseException | None = None
        try:
            await session.answer(batch)
        except (*DRIVER_ERRORS, asyncio.CancelledError) as e:
            error = e
            settle(batch, e, sent=True)
        finally:
            await source.give(session, error)

    async def _go_on(self, command: Command, address: Address, error: BaseException, *, sent: bool) -> Any:
        """Go on with a command after what its first try met, at a server that may not have its slot any more."""
        plan = Plan([command], self.slots, self.shown, self.timeout)
        (batch,) = plan.batches()
        batch = batch._replace(address=address)
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
            await source.give(session, e)
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
            except BaseException as e:
                await source.give(session, e)
                if not isinstance(e, DRIVER_ERRORS):
                    raise
                if last:
                    raise connecting(e, self.shown) from e
            else:
                await source.give(session)
                break
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


def settle(batch: Gathered[Command], error: BaseException, *, sent: bool) -> None:
    """Tell those that have no answer yet what became of all."""
    cancelled = isinstance(error, asyncio.CancelledError)
    if cancelled:  # by somebody who ends every task, also that of whom he has not cancelled
        error = exceptions.ConnectionError("the task that sent several calls was cancelled")
    for one in batch:
        one.done((sent, own(error)))
    if cancelled:
        raise asyncio.CancelledError


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
