"""A tiny server that speaks Ray's job interface, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

TOKEN = "s3cret"  # noqa: S105 - of this test's server


@dataclass
class FakeRay:
    """Ray's job interface as 2.60 serves it, status codes and all.

    Parameters
    ----------
    broken
        Status that every call is answered with instead.
    submitted
        Every body taken.
    """

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    broken: int | None = None
    hangs: bool = False
    most_running: int = 0
    url: str = ""

    def end(self, name: str, status: str, code: int | None = None, message: str = "") -> None:
        self.jobs[name] |= {"status": status, "driver_exit_code": code, "message": message}

    def running(self) -> list[str]:
        return [n for n, job in self.jobs.items() if job["status"] in ("PENDING", "RUNNING")]

    async def answer(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "")
        self.calls.append(f"{request.method} {name}")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401, text="Unauthorized: Invalid authentication token")
        if self.hangs:
            await asyncio.sleep(60)
        if self.broken is not None:
            return web.Response(status=self.broken, text="Traceback:\nno agent is available")
        if request.method == "POST" and not name:
            return self._submit(await request.json())
        if not name:
            return web.json_response(list(self.jobs.values()))
        if name not in self.jobs:
            return web.Response(status=404, text=f"Job {name} does not exist")
        return self._one(request, name)

    def _submit(self, body: dict[str, Any]) -> web.Response:
        if body["submission_id"] in self.jobs:
            return web.Response(status=500, text="ValueError: 400: already exists")
        self.submitted.append(body)
        self.jobs[body["submission_id"]] = {**body, "status": "RUNNING", "driver_exit_code": None}
        self.most_running = max(self.most_running, len(self.running()))
        return web.json_response({"submission_id": body["submission_id"]})

    def _one(self, request: web.Request, name: str) -> web.Response:
        if request.path.endswith("/stop"):
            self.stopped.append(name)
            return web.json_response({"stopped": True})
        if request.method == "DELETE":
            if name in self.running():
                return web.Response(status=500, text="RuntimeError: in a non-terminal state")
            del self.jobs[name]
            return web.json_response({"deleted": True})
        return web.json_response(self.jobs[name])

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[FakeRay]:
        app = web.Application()
        for path in ("/api/jobs/", "/api/jobs/{name}", "/api/jobs/{name}/stop"):
            app.router.add_route("*", path, self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


@pytest.fixture
def ray() -> FakeRay:
    return FakeRay()


@pytest.fixture
def token_path(tmp_path: Path) -> Path:
    path = tmp_path / "ray-token"
    path.write_text(f"{TOKEN}\n")
    return path
