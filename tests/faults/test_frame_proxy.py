"""The proxy loses the replies that it should, and no others."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
from harness.faults import END_TXN, HEAD, HOST, SIZE, FrameProxy, LostReplies

FETCH = 1


@pytest.fixture
def broker() -> Iterator[int]:
    """Answer every request with its correlation id; yield the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.read(SIZE.size):
            frame = await reader.readexactly(SIZE.unpack(head)[0])
            writer.write(SIZE.pack(SIZE.size) + SIZE.pack(HEAD.unpack_from(frame)[2]))

    async def run() -> None:
        server = await asyncio.start_server(answer, HOST, 0)
        ports.append(server.sockets[0].getsockname()[1])
        listening.set()
        while not stop.is_set():
            await asyncio.sleep(0.02)
        server.close()

    ports: list[int] = []
    listening, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert listening.wait(5)
    yield ports[0]
    stop.set()
    thread.join(5)


class Client:
    """Sends requests of a kind and waits a moment for the reply."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=0.3)
        self._sent = 0

    def ask(self, api_key: int) -> str:
        """Return what came: the right reply, nothing, or the end of the connection."""
        self._sent += 1
        frame = HEAD.pack(api_key, 0, self._sent)
        self._socket.sendall(SIZE.pack(len(frame)) + frame)
        try:
            got = self._socket.recv(2 * SIZE.size)
        except TimeoutError:
            return "nothing"
        if not got:
            return "end"
        assert got == SIZE.pack(SIZE.size) + SIZE.pack(self._sent)
        return "reply"

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("fate", ["dropped", "delayed", "cut"])
def test_only_the_named_replies_are_lost(broker: int, fate: str) -> None:
    lost = LostReplies(seed=1, done={fate: 0}, delays_s=(0.4, 0.5))
    proxy = FrameProxy(lost)
    proxy.target = broker
    client = Client(proxy.port)
    try:
        assert [client.ask(key) for key in (FETCH, END_TXN)] == ["reply", "reply"]
        lost.share = 1.0
        assert client.ask(FETCH) == "reply"
        assert client.ask(END_TXN) == ("end" if fate == "cut" else "nothing")
        if fate == "dropped":
            assert client.ask(FETCH) == "reply"
    finally:
        client.close()
        proxy.close()
    assert lost.done == {fate: 1}
    assert lost.requests == 2
