"""The model server over gRPC: every call has a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import grpc
import numpy as np
import tritonclient.grpc as triton
from penstock_schemas.errors import (
    ConfigError,
    FatalError,
    ModelRejected,
    ModelUnavailable,
    PenstockError,
    ShapeMismatch,
)
from tritonclient.utils import InferenceServerException

from penstock_inference.settings import TritonSettings
from penstock_inference.tensors import Matrix, checked_scores
from penstock_inference.triton_errors import translating

INPUT: Final = "features"
OUTPUT: Final = "scores"
DTYPE: Final = "FP32"
MAX_MESSAGE_BYTES: Final = 2**31 - 1
MAX_CALLS: Final = 32
"""Calls of a process on their way at once; further ones wait, within their deadline."""
RECONNECT_MAX_MS: Final = 2_000
"""gRPC's own 120 s would keep a restarted server waiting that long."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the server says about a loaded model.

    Parameters
    ----------
    name
        Its name on the server.
    width
        Number of features it takes.
    max_rows
        Most rows it takes in one call.
    score_width
        Number of scores per row.
    """

    name: str
    width: int
    max_rows: int
    score_width: int = 1


class ScoringCall:
    """The calls on their way for one matrix; together they give its scores."""

    def __init__(self, model: ServedModel, chunks: Sequence[Future[Matrix]]) -> None:
        self.model = model
        self._chunks = chunks

    def done(self, within_s: float = 0.0) -> bool:
        """Tell whether `scores` would return without waiting, after ``within_s`` at most."""
        if within_s > 0.0:
            wait(self._chunks, within_s)
        return all(chunk.done() for chunk in self._chunks)

    async def settled(self) -> None:
        """Wait until all calls have ended, well or not; bounded by their deadlines."""
        ended, _ = await asyncio.wait([asyncio.wrap_future(chunk) for chunk in self._chunks])
        for chunk in ended:
            chunk.exception()  # looked at, or asyncio logs it as lost; `scores` raises it

    def scores(self, timeout_s: float) -> Matrix:
        """Return the scores, shape (n, k), float32, in the order of the rows.

        Raises
        ------
        ModelUnavailable
            A call failed because the server or the model is away, or did not come back in time.
        ShapeMismatch, ModelRejected
            The server refuses the tensor; the model failed on one of the calls.
        FatalError
            Waiting would not help.
        """
        _, late = wait(self._chunks, timeout_s)
        if late:
            raise ModelUnavailable(f"inference by {self.model.name}: no answer in {timeout_s} s")
        parts = [chunk.result() for chunk in self._chunks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class TritonServer:
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

    def start(self, model: ServedModel, matrix: Matrix, timeout_s: float) -> ScoringCall:
        """Send a matrix, in as many calls as its rows need, and return at once.

        Parameters
        ----------
        matrix
            Shape (n, d), float32, n ≥ 1.
        timeout_s
            Deadline of each call, seconds from now.
        """
        starts = range(0, len(matrix), model.max_rows)
        chunks = [self._send(model, matrix[at : at + model.max_rows], timeout_s) for at in starts]
        return ScoringCall(model, chunks)

    def infer(self, model: ServedModel, matrix: Matrix, timeout_s: float) -> Matrix:
        """Return the scores of a matrix; raises what `ScoringCall.scores` raises."""
        # A little longer than the call's own deadline, so that its error is the one seen.
        return self.start(model, matrix, timeout_s).scores(timeout_s + 1.0)

    def _send(self, model: ServedModel, rows: Matrix, timeout_s: float) -> Future[Matrix]:
        return self._threads.submit(self._infer, model, rows, time.monotonic() + timeout_s)

    def _infer(self, model: ServedModel, rows: Matrix, until_s: float) -> Matrix:
        """Make one call; only errors of ours escape, or a canary's answer could end the router."""
        doing = f"inference by {model.name}"
        left_s = until_s - time.monotonic()
        if left_s <= 0.0:
            # Nothing was asked, so it says nothing about the model: no `DeadlineHit`.
            raise ModelUnavailable(f"{doing}: every thread was waiting for an answer")
        tensor = triton.InferInput(INPUT, list(rows.shape), DTYPE)
        try:
            with translating(doing):
                tensor.set_data_from_numpy(rows)
                result = self._client.infer(
                    model.name, [tensor], outputs=self._outputs, client_timeout=left_s
                )
            return checked_scores(result.as_numpy(OUTPUT), len(rows), doing)
        except PenstockError:
            raise
        except Exception as exc:  # an answer that the client cannot make an array of
            raise FatalError(f"{doing}: {type(exc).__name__}: {exc}") from exc

    def live(self) -> bool:
        """Tell whether the server answers."""
        try:
            return bool(self._client.is_server_live(client_timeout=self._settings.admin_timeout_s))
        except (InferenceServerException, grpc.RpcError):
            return False

    def ready(self, name: str) -> bool:
        """Tell whether a model is loaded and ready; False also where the server is away."""
        timeout_s = self._settings.admin_timeout_s
        try:
            return bool(self._client.is_model_ready(name, client_timeout=timeout_s))
        except (InferenceServerException, grpc.RpcError):
            return False

    def load(self, name: str) -> None:
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

    def reload(self, name: str) -> None:
        """Unload a model and load it again: only that starts a process anew that has died.

        Raises
        ------
        ModelUnavailable
            The server is away, or the model does not load again.
        """
        with suppress(ModelUnavailable, ShapeMismatch, ModelRejected), translating(name):
            # Whatever it says, what counts is whether the model can be loaded.
            self._client.unload_model(name, client_timeout=self._settings.load_timeout_s)
        self.load(name)

    def describe(self, name: str) -> ServedModel:
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
