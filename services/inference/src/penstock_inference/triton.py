"""Triton as the model server, over gRPC: every call has a deadline, every status a meaning."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Final

import grpc
import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton
from penstock_schemas.errors import (
    ConfigError,
    FatalError,
    ModelRejected,
    ModelUnavailable,
    PenstockError,
    ShapeMismatch,
)
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from penstock_inference.model_server import (
    DTYPE,
    INPUT,
    OUTPUT,
    DeadlineHit,
    Matrix,
    ModelServer,
    PendingScores,
    ServedModel,
    Tensors,
)
from penstock_inference.settings import TritonSettings
from penstock_inference.tensors import checked_scores

MAX_MESSAGE_BYTES: Final = 2**31 - 1
MAX_CALLS: Final = 32
"""Calls of a process on their way at once; further ones wait, within their deadline."""
RECONNECT_MAX_MS: Final = 2_000
"""gRPC's own 120 s would keep a restarted server waiting that long."""

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
    # The model failed on the request, or its process died: the search by halves finds the row.
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


class TritonServer(ModelServer):
    """One connection to the model server. Thread-safe.

    Parameters
    ----------
    settings
        Address and deadlines.
    """

    def __init__(self, settings: TritonSettings) -> None:
        self._settings = settings
        self._client = triton.InferenceServerClient(
            settings.grpc_url,
            channel_args=[
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.keepalive_time_ms", int(settings.keepalive_s * 1000)),
                ("grpc.keepalive_timeout_ms", int(settings.keepalive_s * 1000)),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", RECONNECT_MAX_MS),
            ],
        )
        self._outputs = [triton.InferRequestedOutput(OUTPUT)]
        # The client's own async_infer starts a thread for every call that finds none on its way.
        self._threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="triton-call")

    def start_inference(
        self, model: ServedModel, inputs: Tensors, timeout_s: float
    ) -> PendingScores:
        """Send the rows in as many calls as they need, and return at once."""
        until_s = time.monotonic() + timeout_s
        rows = len(next(iter(inputs.values())))
        if rows <= model.max_rows:
            return PendingScores(model, [self._submit_call(model, inputs, until_s)])
        starts = range(0, rows, model.max_rows)
        chunks = [{n: t[at : at + model.max_rows] for n, t in inputs.items()} for at in starts]
        return PendingScores(model, [self._submit_call(model, part, until_s) for part in chunks])

    def _submit_call(self, model: ServedModel, inputs: Tensors, until_s: float) -> Future[Matrix]:
        return self._threads.submit(self._call_model, model, inputs, until_s)

    def _call_model(self, model: ServedModel, inputs: Tensors, until_s: float) -> Matrix:
        """Make one call; only errors of ours escape, or a canary's answer could end the router."""
        doing = f"inference by {model.name}"
        left_s = until_s - time.monotonic()
        if left_s <= 0.0:
            # Nothing was asked, so it says nothing about the model: no `DeadlineHit`.
            raise ModelUnavailable(f"{doing}: every thread was waiting for an answer")
        try:
            with translating(doing):
                tensors = [_input(name, tensor) for name, tensor in inputs.items()]
                result = self._client.infer(
                    model.name, tensors, outputs=self._outputs, client_timeout=left_s
                )
            rows = len(next(iter(inputs.values())))
            return checked_scores(result.as_numpy(OUTPUT), rows, doing)
        except PenstockError:
            raise
        except Exception as exc:  # an answer that the client cannot make an array of
            raise FatalError(f"{doing}: {type(exc).__name__}: {exc}") from exc

    def model_ready(self, name: str) -> bool:
        """Return whether a model is loaded and ready; False also where the server is away."""
        timeout_s = self._settings.admin_timeout_s
        try:
            return bool(self._client.is_model_ready(name, client_timeout=timeout_s))
        except (InferenceServerException, grpc.RpcError):
            return False

    def load_model(self, name: str) -> None:
        """Load a model from the server's repository; nothing happens if it is loaded.

        Raises
        ------
        ModelUnavailable
            The server is away, or the model does not load (yet).
        """
        try:
            with translating(f"loading {name}"):
                self._client.load_model(name, client_timeout=self._settings.load_timeout_s)
        except (ShapeMismatch, ModelRejected) as exc:
            # The server answers INVALID_ARGUMENT or INTERNAL for files that are not there yet.
            raise ModelUnavailable(str(exc)) from exc

    def reload_model(self, name: str) -> None:
        """Unload a model and load it again: only that starts a process anew that has died.

        Raises
        ------
        ModelUnavailable
            The server is away, or the model does not load again.
        """
        with suppress(ModelUnavailable, ShapeMismatch, ModelRejected), translating(name):
            # Whatever it says, what counts is whether the model can be loaded.
            self._client.unload_model(name, client_timeout=self._settings.load_timeout_s)
        self.load_model(name)

    def model_metadata(self, name: str) -> ServedModel:
        """Return what the server says about a loaded model.

        Raises
        ------
        ModelUnavailable
            The server is away or the model is not loaded.
        ConfigError
            The model does not have the one input and the one output that we use.
        """
        with translating(f"asking about {name}"):
            answer = self._client.get_model_config(
                name, client_timeout=self._settings.admin_timeout_s
            )
        config = answer.config
        inputs = {i.name: list(i.dims) for i in config.input}
        outputs = {o.name: list(o.dims) for o in config.output}
        if list(inputs) != [INPUT] or len(inputs[INPUT]) != 1 or len(outputs.get(OUTPUT, [])) != 1:
            raise ConfigError(
                f"model {name}: expected input {INPUT} [-1, n] and output {OUTPUT} [-1, k], "
                f"got inputs {inputs} and outputs {outputs}"
            )
        return ServedModel(
            name,
            width=int(inputs[INPUT][0]),
            max_rows=max(1, int(config.max_batch_size)),
            score_width=int(outputs[OUTPUT][0]),
        )

    def close(self) -> None:
        """Close the connection; calls on their way end as errors."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()


def _input(name: str, tensor: npt.NDArray[Any]) -> triton.InferInput:
    datatype = DTYPE if tensor.dtype == np.float32 else np_to_triton_dtype(tensor.dtype)
    made = triton.InferInput(name, list(tensor.shape), datatype)
    made.set_data_from_numpy(tensor)
    return made
