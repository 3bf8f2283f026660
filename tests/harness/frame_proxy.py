"""A TCP proxy in front of a broker that understands Kafka's frames: it loses single replies.

A frame is a length (int32) and that many bytes; a request begins with api_key (int16), api_version
(int16) and correlation id (int32), a reply with the correlation id (Kafka protocol guide, "Common
request and response structure"). Clients must be told the proxy's address by the broker itself, so
the broker needs a listener that advertises it.
"""

from __future__ import annotations

import asyncio
import random
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

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
