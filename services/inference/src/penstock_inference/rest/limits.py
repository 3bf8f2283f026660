"""Limits of the gateway: requests in flight, body size and time, rows in flight, deadlines."""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

from fastapi import Request
from penstock_schemas.errors import DecodeError, SchemaError
from penstock_streaming.timing import Deadline
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock_inference.metrics import InferenceFamilies
from penstock_inference.rest.errors import (
    BusyError,
    LateError,
    SlowBodyError,
    TooLargeError,
    UnsupportedError,
    error_response,
    shown,
)
from penstock_inference.settings import GatewaySettings

HEADER_TIMEOUT: Final = "Request-Timeout-Ms"
"""How long the caller waits, milliseconds."""
MEDIA_TYPES: Final = frozenset(
    {
        "application/json",
        "application/octet-stream",
        # What curl says of a body unless told otherwise.
        "application/x-www-form-urlencoded",
    }
)
ENCODINGS: Final = frozenset({"gzip", "deflate"})
EITHER_WRAPPING: Final = 32 + zlib.MAX_WBITS
"""Has zlib find out by itself which of the two it is."""


async def read_body(request: Request, settings: GatewaySettings) -> bytes:
    """Return a request's body, unpacked.

    Raises
    ------
    Refusal
        It is larger than the limit, does not come in time, or is of a kind that is not read.
    DecodeError
        It does not unpack.
    """
    encoding = _encoding(request)
    limit = settings.max_body_bytes
    claimed = request.headers.get("content-length", "0")
    if not claimed.isdecimal() or len(claimed) > 18 or int(claimed) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError as exc:
        raise SlowBodyError(
            f"the body did not arrive within {settings.body_timeout_s:g} s",
            {"Connection": "close"},
        ) from exc
    return bytes(body) if encoding is None else _unpacked(body, limit)


def _encoding(request: Request) -> str | None:
    media_type, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    if media_type.strip() and media_type.strip() not in MEDIA_TYPES:
        raise UnsupportedError(
            f"{shown(media_type)} is not read; send application/json",
            {"Accept": "application/json, application/octet-stream"},
        )
    charset = parameters.partition("charset=")[2].strip(' "')
    if charset and charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedError(f"charset {shown(charset)} is not read; send UTF-8")
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return None
    if encoding not in ENCODINGS:
        known = ", ".join(sorted(ENCODINGS))
        raise UnsupportedError(
            f"Content-Encoding {shown(encoding)} is not read; known are {known}",
            {"Accept-Encoding": known},
        )
    return encoding


def _unpacked(packed: bytearray, limit: int) -> bytes:
    unpacker = zlib.decompressobj(EITHER_WRAPPING)
    try:
        body = unpacker.decompress(packed, limit + 1)
    except zlib.error as exc:
        raise DecodeError("the body does not unpack", got=str(exc)[:80]) from exc
    if len(body) > limit:
        raise _too_large(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise DecodeError("the body does not unpack", got="a truncated or a longer stream")
    return body


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is larger than {limit} bytes", {"Connection": "close"})


def deadline_of(request: Request, settings: GatewaySettings) -> Deadline:
    """Return until when a request is worked on: the caller's header, capped.

    Raises
    ------
    SchemaError
        The header is no positive number.
    """
    text = request.headers.get(HEADER_TIMEOUT)
    if text is None:
        return Deadline(settings.max_timeout_s)
    if not (text.isascii() and text.isdecimal() and len(text) <= 12 and int(text) > 0):
        raise SchemaError(
            "wrong header", field=HEADER_TIMEOUT, expected="milliseconds", got=text[:20]
        )
    return Deadline(min(settings.max_timeout_s, int(text) / 1000.0))


@asynccontextmanager
async def until(deadline: Deadline) -> AsyncIterator[None]:
    """Give up on the work of the block when a deadline passes.

    Raises
    ------
    LateError
        It has passed.
    """
    try:
        async with asyncio.timeout(deadline.remaining_s) as limit:
            yield
    except TimeoutError as exc:
        if limit.expired():
            raise LateError("the request's deadline has passed") from exc
        raise


class RowBudget:
    """How many rows may be worked on at once, over all requests; used by one event loop.

    Examples
    --------
    >>> budget = RowBudget(10)
    >>> with budget.held(8):
    ...     with budget.held(3):
    ...         pass
    Traceback (most recent call last):
    ...
    penstock_inference.rest.errors.BusyError: 8 rows are being worked on; try again
    >>> with budget.held(10):
    ...     pass
    """

    def __init__(self, rows: int) -> None:
        self._limit = rows
        self._held = 0

    @contextmanager
    def held(self, rows: int) -> Iterator[None]:
        """Hold rows for the length of the block.

        Raises
        ------
        BusyError
            They are more than are left.
        """
        if self._held + rows > self._limit:
            raise BusyError(f"{self._held} rows are being worked on; try again")
        self._held += rows
        try:
            yield
        finally:
            self._held -= rows


logger = logging.getLogger(__name__)

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
GONE: Final = "499"
"""Counted where the caller went away before its answer; nginx's code for it."""


_LABEL: Final = "metrics_label"


def counted_as(label: str, endpoint: Endpoint) -> Endpoint:
    """Have requests to an endpoint counted and timed under a label."""
    setattr(endpoint, _LABEL, label)
    return endpoint


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
        label = getattr(scope.get("endpoint"), _LABEL, "other")
        # A name that is not known would be a label of the caller's own making.
        known = status not in ("404", GONE)
        pipeline = scope.get("path_params", {}).get("name", "") if known else ""
        self._families.latency.labels(label).observe(seconds)
        self._families.requests.labels(pipeline, label, status).inc()
