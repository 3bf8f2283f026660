"""What the gateway refuses, and how each error is told: the protocol's ``{"error": …}``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from fastapi import FastAPI, Request
from fastapi.responses import Response
from penstock_schemas.errors import FatalError, RecordError, RetryableError
from starlette.exceptions import HTTPException

logger = logging.getLogger(__name__)

MEANINGS: Final = {
    200: "Answered",
    400: "The request is wrong; the error names the field, what was expected and what came",
    404: "No such model, or no such version of it",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is of a media type or encoding that is not read",
    429: "Too much is being worked on; come back after Retry-After seconds",
    500: "The gateway or its configuration is wrong",
    503: "The model, or what it needs, is away; come back after Retry-After seconds",
    504: "The deadline has passed",
}
"""What each status of the gateway says."""
LONGEST_NAME: Final = 80
"""Most characters of a caller's text that an error repeats."""


class Refusal(Exception):
    """A request is not answered; the class says with which status.

    Parameters
    ----------
    message
        Why, in one sentence.
    headers
        Added to the response.
    """

    status: ClassVar[int]

    def __init__(self, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = dict(headers or {})


class UnknownModelError(Refusal):
    """The pipeline, or the version of its model, is not known."""

    status = 404


class SlowBodyError(Refusal):
    """The body did not arrive in time."""

    status = 408


class TooLargeError(Refusal):
    """The body is larger than the limit."""

    status = 413


class UnsupportedError(Refusal):
    """The body is of a media type, or packed in a way, that is not read."""

    status = 415


class BusyError(Refusal):
    """Too much is being worked on: come back."""

    status = 429


class LateError(Refusal):
    """The caller's deadline has passed."""

    status = 504


def error_response(
    status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error as JSON; ASCII, so that no text of a caller makes it fail."""
    return Response(
        json.dumps(content), status, headers=dict(headers or {}), media_type="application/json"
    )


def shown(text: str) -> str:
    """Return a caller's text as an error may repeat it: quoted, and not long.

    Examples
    --------
    >>> shown("x" * 100) == repr("x" * 80) + "…"
    True
    """
    return repr(text) if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]!r}…"


def add_errors(app: FastAPI, retry_after_s: int) -> None:
    """Have every error that a request may end with answered in one form.

    Parameters
    ----------
    retry_after_s
        What a caller is told to wait where the fault is not its own, seconds.
    """
    wait = {"Retry-After": str(retry_after_s)}

    async def bad_input(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, RecordError)  # noqa: S101 - narrows the type
        facts = {"field": exc.field, "expected": exc.expected, "got": exc.got}
        return error_response(400, {"error": exc.message, **facts})

    async def refused(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, Refusal)  # noqa: S101 - narrows the type
        headers = exc.headers | (wait if isinstance(exc, BusyError) else {})
        return error_response(exc.status, {"error": str(exc)}, headers)

    async def away(_: Request, exc: Exception) -> Response:
        return error_response(503, {"error": str(exc)}, wait)

    async def ours(_: Request, exc: Exception) -> Response:
        logger.error("a request failed: %s: %s", type(exc).__name__, exc)
        return error_response(500, {"error": str(exc)})

    async def no_route(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)  # noqa: S101 - narrows the type
        told = f"{request.method} {shown(request.url.path)}: {exc.detail}"
        return error_response(exc.status_code, {"error": told}, exc.headers)

    app.add_exception_handler(RecordError, bad_input)
    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(RetryableError, away)
    app.add_exception_handler(FatalError, ours)
    app.add_exception_handler(HTTPException, no_route)
