"""A way to a server that can lose what the server answers, and speaks TLS where the server does not."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self


class Proxy:
    """A way to a port, in `with`.

    Attributes:
        lose: how many of the next answers are lost, each with its connection: the server has done what it was told, and
            nobody hears of it.
        spare: how many are not, before these.
        hold: of how many connections the next answer, and what comes after that, waits until the connection ends.
        port: where it answers.
    """

    lose = 0
    spare = 0
    hold = 0
    port = 0

    def __init__(self, to: int, certificate: str | None = None, host: str = "127.0.0.1") -> None:
        self._to = host, to
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
        if self._tls and certificate:
            self._tls.load_cert_chain(certificate)

    def __enter__(self) -> Self:
        answers = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._main(answers),), daemon=True)
        self._thread.start()
        answers.wait(30)
        return self

    def end(self) -> None:
        """End all connections, as a server does whose client has said nothing for long."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    async def _main(self, answers: threading.Event) -> None:
        self._loop, self._stop, self._over = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self._ways: set[asyncio.Task[None] | None] = set()
        server = await asyncio.start_server(self._way, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        answers.set()
        await self._stop.wait()
        server.close()
        await self._end()

    async def _end(self) -> None:
        over, self._over = self._over, asyncio.Event()
        over.set()
        await asyncio.gather(*filter(None, [*self._ways]))
        await asyncio.sleep(0)  # now they have closed their sockets

    async def _way(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        self._ways.add(asyncio.current_task())
        outs, ends = [near_out], [asyncio.create_task(self._until(self._over))]
        try:
            far, far_out = await asyncio.open_connection(*self._to)
            outs.append(far_out)
            ends.append(asyncio.create_task(self._carry(near, far_out, answers=False)))
            ends.append(asyncio.create_task(self._carry(far, near_out, answers=True)))
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # there is nobody
        finally:
            for end in ends:
                end.cancel()
            for out in outs:
                out.transport.abort()
            self._ways.discard(asyncio.current_task())

    async def _until(self, event: asyncio.Event) -> None:
        await event.wait()

    async def _carry(self, begin: asyncio.StreamReader, end: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while said := await begin.read(65_536):
                if answers and self.spare:
                    self.spare -= 1
                elif answers and self.lose:
                    self.lose -= 1
                    return
                elif answers and self.hold:
                    self.hold -= 1
                    await asyncio.Event().wait()
                end.write(said)
                await end.drain()
