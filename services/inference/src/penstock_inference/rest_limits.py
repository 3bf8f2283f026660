"""The bounds of a request: how large and how late its body may be, its rows, its deadline."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from fastapi import Request
from penstock_schemas.errors import DecodeError, SchemaError
from penstock_streaming.deadline import Deadline

from penstock_inference.rest_errors import (
    BusyError,
    LateError,
    SlowBodyError,
    TooLargeError,
    UnsupportedError,
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
    penstock_inference.rest_errors.BusyError: 8 rows are being worked on; try again
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
