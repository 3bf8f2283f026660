"""The model server's own side of a publication: load a version, try it, unload it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from penstock_schemas.errors import ModelUnavailable

from penstock_training.onnx_export import INPUT, OUTPUT, TOLERANCE, ParityError
from penstock_training.trainers import Matrix, Vector

LOAD_TIMEOUT_S: Final = 60.0
_CALL_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.1


def load(triton_grpc: str, served_as: str, timeout_s: float = LOAD_TIMEOUT_S) -> None:
    """Have the server load a version and wait until it is ready.

    Parameters
    ----------
    triton_grpc
        host:port.

    Raises
    ------
    ModelUnavailable
        If the server does not have it ready in time.
    """
    deadline = time.monotonic() + timeout_s
    with _client(triton_grpc, served_as) as client:
        _wait(client.is_server_ready, deadline, f"model server {triton_grpc} is not ready")
        left = max(1.0, deadline - time.monotonic())
        client.load_model(served_as, client_timeout=left)
        _wait(
            lambda client_timeout: client.is_model_ready(served_as, client_timeout=client_timeout),
            deadline,
            f"model {served_as} is not ready on {triton_grpc}",
        )


def unload(triton_grpc: str, served_as: str) -> None:
    """Have the server drop a version; nothing happens where it has none of that name.

    Raises
    ------
    ModelUnavailable
        If the server does not answer.
    """
    with _client(triton_grpc, served_as) as client:
        if client.is_model_ready(served_as, client_timeout=_CALL_TIMEOUT_S):
            client.unload_model(served_as, client_timeout=_CALL_TIMEOUT_S)


def try_out(triton_grpc: str, served_as: str, matrix: Matrix, expected: Vector) -> None:
    """Have a loaded version score real rows before traffic reaches it.

    Parameters
    ----------
    matrix
        At most as many rows as the version takes at once, shape (n, d).
    expected
        Its scores as computed elsewhere, shape (n,).

    Raises
    ------
    ModelUnavailable
        If the server does not answer.
    ParityError
        If it answers otherwise.
    """
    import tritonclient.grpc as triton

    tensor = triton.InferInput(INPUT, list(matrix.shape), "FP32")
    tensor.set_data_from_numpy(np.ascontiguousarray(matrix, dtype=np.float32))
    with _client(triton_grpc, served_as) as client:
        answer = client.infer(served_as, [tensor], client_timeout=_CALL_TIMEOUT_S)
    difference = float(np.abs(answer.as_numpy(OUTPUT)[:, 0] - expected).max())
    if not difference <= TOLERANCE:
        raise ParityError(f"model {served_as}: the server's scores differ by {difference:.2e}")


@contextmanager
def _client(triton_grpc: str, served_as: str) -> Iterator[Any]:
    """Yield a client of the server; what it raises is about that model."""
    import tritonclient.grpc as triton

    with _translated(f"model server {triton_grpc}, model {served_as}"):
        client: Any = triton.InferenceServerClient(triton_grpc)
        try:
            yield client
        finally:
            client.close()


def _wait(probe: Any, deadline: float, what: str) -> None:
    from tritonclient.utils import InferenceServerException

    while True:
        try:
            if probe(client_timeout=_CALL_TIMEOUT_S):
                return
        except InferenceServerException:
            if time.monotonic() >= deadline:
                raise
        if time.monotonic() >= deadline:
            raise ModelUnavailable(what)
        time.sleep(_POLL_S)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as exc:
        raise ModelUnavailable(f"{what}: {exc.message()}") from exc
