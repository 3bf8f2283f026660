"""The gateway's outermost layer: admits, counts and times requests, and answers for defects."""

from __future__ import annotations

import logging
import time
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock_inference.metrics import InferenceFamilies
from penstock_inference.rest_errors import error_response
from penstock_inference.settings import GatewaySettings

logger = logging.getLogger(__name__)

GONE: Final = "499"
"""Counted where the caller went away before its answer; nginx's code for it."""


class Guard:
    """Refuses requests beyond the limit before any work; used by one event loop.

    Written to the bare interface of the server: a request that is cancelled because its caller has
    gone must leave no trace in the count of those in flight.

    Parameters
    ----------
    app
        What answers.
    """

    def __init__(
        self, app: ASGIApp, settings: GatewaySettings, families: InferenceFamilies
    ) -> None:
        self._app = app
        self._settings = settings
        self._families = families
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        limit = self._settings.max_in_flight
        if self._in_flight >= limit:
            self._families.requests.labels("", "refused", "429").inc()
            refused = error_response(
                429,
                {"error": f"more than {limit} requests at once; try again"},
                {"Retry-After": str(self._settings.retry_after_s)},
            )
            await refused(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self._counted(scope, receive, send)
        finally:
            self._in_flight -= 1

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = GONE
        start = time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except ClientDisconnect:
            pass  # nobody is left to be answered
        except Exception:
            # A defect of ours: told to this caller and to the log; the other callers go on.
            logger.exception("a request failed")
            if status == GONE:
                failed = error_response(500, {"error": "the gateway failed on this request"})
                await failed(scope, receive, noting)
        finally:
            self._count(scope, status, time.perf_counter() - start)

    def _count(self, scope: Scope, status: str, seconds: float) -> None:
        path = scope["path"]
        is_predict = path.startswith("/predict/")
        route = "predict" if is_predict else "infer" if path.endswith("/infer") else "other"
        # A name that is not known would be a label of the caller's own making.
        known = status not in ("404", GONE)
        pipeline = scope.get("path_params", {}).get("name", "") if known else ""
        self._families.latency.labels(route).observe(seconds)
        self._families.requests.labels(pipeline, route, status).inc()
