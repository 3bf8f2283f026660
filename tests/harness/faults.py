"""Faults that a test does to processes (kill, freeze) and to connections (two TCP proxies).

`FrameProxy` stands in front of a broker, understands Kafka's frames and loses single replies. A
frame is a length (int32) and that many bytes; a request begins with api_key (int16), api_version
(int16) and correlation id (int32), a reply with the correlation id (Kafka protocol guide, "Common
request and response structure"). Clients must be told the proxy's address by the broker itself, so
the broker needs a listener that advertises it. `OutageProxy` stands in front of any service, which
can be away, silent or slow for its clients alone.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

LONGEST_PAUSE_S = 0.08


def kill(pids: list[int]) -> None:
    """Kill processes with -9."""
    assert pids, "no process to kill"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """Stop processes for the time of the block; they may die in it."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


def kill_inside(pids: list[int], is_inside: Callable[[], bool], deadline_s: float) -> bool:
    """Kill processes at a moment that they are in a given state; tell whether one was found.

    The state is looked at while the processes stand still, so that it cannot pass before the kill.
    Without such a moment in time they are killed as they are.
    """
    end, pause = time.monotonic() + deadline_s, threading.Event()
    while time.monotonic() < end:
        with frozen(pids):
            if is_inside():
                kill(pids)
                return True
        pause.wait(random.uniform(0.0, LONGEST_PAUSE_S))
    kill(pids)
    return False


HOST: Final = "127.0.0.1"
END_TXN: Final = 26
STOP_S: Final = 10.0
HEAD: Final = struct.Struct(">hhi")
SIZE: Final = struct.Struct(">i")


@dataclass
class LostReplies:
    """Which replies to requests of one kind do not arrive as they should.

    Parameters
    ----------
    share
        Of the replies, 0 to 1; 0 lets all through.
    delays_s
        Shortest and longest delay of those that are late.

    Attributes
    ----------
    requests
        Requests of the kind that went through.
    done
        Number of replies by what was done to them.
    """

    seed: int
    api_key: int = END_TXN
    share: float = 0.0
    delays_s: tuple[float, float] = (5.0, 60.0)
    requests: int = 0
    done: dict[str, int] = field(default_factory=lambda: {"dropped": 0, "delayed": 0, "cut": 0})

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def fate(self) -> str:
        """Draw what happens to the next reply; empty for nothing."""
        if self._rng.random() >= self.share:
            return ""
        fate = self._rng.choice(list(self.done))
        self.done[fate] += 1
        return fate

    def delay_s(self) -> float:
        """Draw the delay of a late reply."""
        return self._rng.uniform(*self.delays_s)


class FrameProxy:
    """Listens at a port of its own and passes frames on, in a thread of its own.

    Parameters
    ----------
    target
        Port of the broker's listener.
    """

    def __init__(self, lost: LostReplies) -> None:
        self.lost = lost
        self.port = 0
        self.target = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        self.port = listening.result(STOP_S)

    def close(self) -> None:
        """Cut every connection and stop."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(STOP_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)
        self._loop.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _end(self) -> None:
        self._server.close()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        watched: set[int] = set()
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            near, far = await asyncio.open_connection(HOST, self.target)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._requests(reader, far, watched))
                    both.create_task(self._replies(near, writer, watched))
            except* (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                far.close()
                writer.close()

    async def _requests(
        self, reader: asyncio.StreamReader, broker: asyncio.StreamWriter, watched: set[int]
    ) -> None:
        while True:
            frame = await _frame(reader)
            api_key, _, correlation_id = HEAD.unpack_from(frame)
            if api_key == self.lost.api_key:
                self.lost.requests += 1
                watched.add(correlation_id)
            await _pass(broker, frame)

    async def _replies(
        self, broker: asyncio.StreamReader, writer: asyncio.StreamWriter, watched: set[int]
    ) -> None:
        late: set[asyncio.Task[None]] = set()
        while True:
            frame = await _frame(broker)
            (correlation_id,) = SIZE.unpack_from(frame)
            fate = ""
            if correlation_id in watched:
                watched.discard(correlation_id)
                fate = self.lost.fate()
            if fate == "cut":
                raise ConnectionResetError
            if fate == "delayed":
                task = asyncio.create_task(_later(self.lost.delay_s(), writer, frame))
                late.add(task)
                task.add_done_callback(late.discard)
            elif not fate:
                await _pass(writer, frame)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = SIZE.unpack(await reader.readexactly(SIZE.size))
    return await reader.readexactly(size)


async def _pass(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(SIZE.pack(len(frame)) + frame)
    await writer.drain()


async def _later(delay_s: float, writer: asyncio.StreamWriter, frame: bytes) -> None:
    await asyncio.sleep(delay_s)
    with suppress(OSError):  # the client has given up and gone
        await _pass(writer, frame)


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
