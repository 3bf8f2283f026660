"""Requests to an application in this process, without a socket: thousands in a second."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from harness.http_server import Answer

DEADLINE_S = 10.0
"""More is a hang, seconds."""


async def call(
    app: Any, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Answer:
    """Return the application's answer."""
    raw = [
        (name.lower().encode(), text.encode("latin-1")) for name, text in (headers or {}).items()
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": b"",
        "root_path": "",
        "headers": raw,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    incoming = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop() if incoming else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), DEADLINE_S)
    start = next(m for m in sent if m["type"] == "http.response.start")
    found = {name.decode(): text.decode("latin-1") for name, text in start["headers"]}
    return Answer(start["status"], found, b"".join(m.get("body", b"") for m in sent))
