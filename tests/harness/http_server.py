"""An application behind a real socket, and a caller that writes what bytes it likes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

import uvicorn
from fastapi import FastAPI
from harness.waiting import eventually

DEADLINE_S = 10.0
"""Longest silence of the server: more is a hang, seconds."""
DEFINED = frozenset({400, 404, 405, 408, 413, 415, 429, 503, 504})
"""Statuses that a request of whatever kind may end with; 500 is a defect of ours."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """Calls a server on this machine over connections of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def raw(self, request: bytes) -> Answer:
        """Send bytes as they are and return the answer; a hang is a TimeoutError."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_answer(connection)

    def post(self, path: str, body: bytes, *headers: str) -> Answer:
        """Post a body to a path that is sent as it is written."""
        lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
        return self.raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def get(self, path: str) -> Answer:
        return self.raw(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode("latin-1"))


def read_answer(connection: socket.socket) -> Answer:
    """Read one answer from a connection."""
    with HTTPResponse(connection) as response:
        response.begin()
        return Answer(response.status, dict(response.headers.items()), response.read())


def well_said(answer: Answer) -> None:
    """Check that an error has the protocol's form and a status that the document names."""
    assert answer.status in DEFINED, (answer.status, answer.body[:200])
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()["error"]


@contextmanager
def serving(app: FastAPI) -> Iterator[Caller]:
    """Serve an application on a free port for the length of the block."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started, DEADLINE_S, every_s=0.01)
    try:
        yield Caller(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
