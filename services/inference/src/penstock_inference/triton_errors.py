"""What the model server's status codes mean: the one place where they are translated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc
from penstock_schemas.errors import (
    ConfigError,
    FatalError,
    ModelRejected,
    ModelUnavailable,
    PenstockError,
    ShapeMismatch,
)
from tritonclient.utils import InferenceServerException

from penstock_inference.breakers import DeadlineHit

ERRORS: Final[dict[grpc.StatusCode, type[PenstockError]]] = {
    # The server or the model is away, starting, or overloaded: try again.
    grpc.StatusCode.UNAVAILABLE: ModelUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineHit,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ModelUnavailable,
    grpc.StatusCode.NOT_FOUND: ModelUnavailable,
    grpc.StatusCode.CANCELLED: ModelUnavailable,
    grpc.StatusCode.ABORTED: ModelUnavailable,
    # The server read the request and refuses the tensor.
    grpc.StatusCode.INVALID_ARGUMENT: ShapeMismatch,
    grpc.StatusCode.OUT_OF_RANGE: ShapeMismatch,
    # The model failed on the request, or its process died: `isolation` finds out which row.
    grpc.StatusCode.INTERNAL: ModelRejected,
    grpc.StatusCode.UNKNOWN: ModelRejected,
    grpc.StatusCode.DATA_LOSS: ModelRejected,
    # Waiting does not help.
    grpc.StatusCode.UNIMPLEMENTED: FatalError,
    grpc.StatusCode.UNAUTHENTICATED: ConfigError,
    grpc.StatusCode.PERMISSION_DENIED: ConfigError,
    grpc.StatusCode.FAILED_PRECONDITION: FatalError,
    grpc.StatusCode.ALREADY_EXISTS: FatalError,
    grpc.StatusCode.OK: FatalError,  # an error that says OK is a defect of the client
}
"""What each status means. `ModelRejected` of a whole request is not yet a verdict on a record."""
_BY_TEXT: Final = {str(code): error for code, error in ERRORS.items()}


def translated(exc: InferenceServerException, doing: str) -> PenstockError:
    """Return the error of our tree for one of the client.

    Parameters
    ----------
    doing
        What was tried, such as ``inference by fraud__1``.
    """
    # The client gives the status as text; without one the request never left it.
    error = _BY_TEXT.get(exc.status() or "", FatalError)
    return error(f"{doing}: {exc.message()}")


@contextmanager
def translating(doing: str) -> Iterator[None]:
    """Raise our error for whatever the client raises inside the block."""
    try:
        yield
    except InferenceServerException as exc:
        raise translated(exc, doing) from exc
    except grpc.RpcError as exc:
        code = exc.code() if isinstance(exc, grpc.Call) else grpc.StatusCode.UNKNOWN
        raise ERRORS.get(code, FatalError)(f"{doing}: {code}") from exc
