"""A TCP proxy before one service, which can be away, silent or slow for its clients alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

HOST: Final = "127.0.0.1"
CHUNK_BYTES: Final = 64 * 1024
WAITING_CHUNKS: Final = 1_000
CALL_S: Final = 10.0


class OutageProxy:
    """Passes bytes on between its clients and one address.

    Parameters
    ----------
    target
        host:port of the service.

    Notes
    -----
    `down` refuses and resets connections, as a dead process does. `hang` takes connections and
    bytes and answers nothing, as a stopped process does. `slow` delays every answer.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._delay_s = 0.0
        self._open: set[asyncio.Transport] = set()
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0
        self.calls = 0
        """Connections that were taken, while up or hanging."""

    def __enter__(self) -> Self:
        self._thread.start()
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_S)

    @property
    def address(self) -> str:
        """host:port that clients are given; it stays the same."""
        return f"{HOST}:{self.port}"

    def up(self) -> None:
        """Pass everything on, at once."""
        self._delay_s = 0.0
        self._run(self._up())

    def down(self) -> None:
        """Reset every connection and take no new one."""
        self._run(self._down())

    def hang(self) -> None:
        """Take connections and answer nothing."""
        self._run(self._hang())

    def slow(self, delay_s: float) -> None:
        """Pass everything on, each answer later by ``delay_s`` seconds."""
        self._delay_s = delay_s
        self._run(self._up())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)

    async def _up(self) -> None:
        self._flows.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _down(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for transport in list(self._open):
            transport.abort()
        self._flows.set()

    async def _hang(self) -> None:
        await self._up()
        self._flows.clear()

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        self.calls += 1
        ends = [answer]
        self._open.add(answer.transport)  # type: ignore[arg-type] # of TCP
        try:
            await self._flows.wait()
            service, request = await asyncio.open_connection(*self._target)
            ends.append(request)
            self._open.add(request.transport)  # type: ignore[arg-type] # of TCP
            await _until_first(
                self._pass(client, request, lambda: 0.0),
                self._pass(service, answer, lambda: self._delay_s),
            )
        except OSError:
            pass  # one of the two is gone: so is the connection
        finally:
            for end in ends:
                self._open.discard(end.transport)  # type: ignore[arg-type] # of TCP
                end.transport.abort()

    async def _pass(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        delay_s: Callable[[], float],
    ) -> None:
        """Pass chunks on in order, each when its delay is over; later ones wait beside it."""
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_CHUNKS)

        async def read() -> None:
            while chunk := await source.read(CHUNK_BYTES):
                await self._flows.wait()
                await chunks.put((self._loop.time() + delay_s(), chunk))

        async def write() -> None:
            while True:
                due, chunk = await chunks.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                target.write(chunk)
                await target.drain()

        await _until_first(read(), write())


async def _until_first(*works: Coroutine[Any, Any, None] | Awaitable[None]) -> None:
    """Run until one of them ends; end the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
