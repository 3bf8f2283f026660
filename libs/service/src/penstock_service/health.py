"""``/live``, ``/ready`` and ``/metrics`` of a service, on a thread of their own.

The standard library's server is enough for a probe and a scrape every few seconds, and it keeps
answering while the service's own threads are busy.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST

REQUEST_TIMEOUT_S: Final = 5.0
_STOP_S: Final = 2.0
_PLAIN: Final = "text/plain; charset=utf-8"

log = logging.getLogger(__name__)


@contextmanager
def serve_health(
    host: str,
    port: int,
    live: Callable[[], bool],
    ready: Callable[[], bool],
    metrics: Callable[[], bytes],
    pages: Mapping[str, Callable[[], bytes]] | None = None,
) -> Iterator[int]:
    """Serve a service's probes and metrics while the context is open.

    Parameters
    ----------
    host, port
        Where to listen; port 0 takes a free one.
    live
        Whether the process works at all; False asks for a restart. Answers 200 or 503.
    ready
        Whether it can do its work now. Answers 200 or 503.
    metrics
        Returns the Prometheus text exposition.
    pages
        JSON of the service's own, by path.

    Yields
    ------
    The port listened on.

    Raises
    ------
    OSError
        If the port is taken; the message names it.

    Notes
    -----
    The callables run on threads of the server and must not block. One that raises answers 503
    (probes) or 500 (metrics); the error is logged, the service goes on.
    """
    try:
        server = _Server((host, port), _Probes(live, ready, metrics, pages or {}))
    except OSError as exc:
        raise OSError(exc.errno, f"metrics endpoint {host}:{port}: {exc.strerror}") from exc
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="health", daemon=True
    )
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(_STOP_S)


@dataclass(frozen=True, slots=True)
class _Probes:
    live: Callable[[], bool]
    ready: Callable[[], bool]
    metrics: Callable[[], bytes]
    pages: Mapping[str, Callable[[], bytes]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], probes: _Probes) -> None:
        super().__init__(address, _Handler)
        self.probes = probes


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_TIMEOUT_S  # a client that says nothing gives its thread back

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/live":
            self._probe(self.server.probes.live, "live")
        elif path == "/ready":
            self._probe(self.server.probes.ready, "ready")
        elif path == "/metrics":
            self._page(self.server.probes.metrics, CONTENT_TYPE_LATEST)
        elif path in self.server.probes.pages:
            self._page(self.server.probes.pages[path], "application/json")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"/live /ready /metrics\n", _PLAIN)

    do_HEAD = do_GET

    def _probe(self, question: Callable[[], bool], name: str) -> None:
        try:
            is_so = question()
        except Exception:
            log.exception("the %s probe failed", name)
            is_so = False
        status = HTTPStatus.OK if is_so else HTTPStatus.SERVICE_UNAVAILABLE
        text = name if is_so else f"not {name}"
        self._answer(status, f"{text}\n".encode(), _PLAIN)

    def _page(self, written: Callable[[], bytes], content_type: str) -> None:
        try:
            body = written()
        except Exception:
            log.exception("%s failed", self.path)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"no answer\n", _PLAIN)
            return
        self._answer(HTTPStatus.OK, body, content_type)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        # A probe that gave up waiting and hung up is no fault of the service.
        with suppress(ConnectionError):
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep probes out of the log."""
