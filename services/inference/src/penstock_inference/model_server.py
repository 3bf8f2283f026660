"""The model server as the rest of the service sees it: one Protocol beside its data types.

A second implementation needs this module alone: it subclasses `ModelServer`, which brings `infer`,
and raises the errors that are listed there, whatever its own client raises.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from penstock_schemas.errors import ModelUnavailable

INPUT: Final = "features"
OUTPUT: Final = "scores"
DTYPE: Final = "FP32"

Matrix = npt.NDArray[np.float32]
Tensors = Mapping[str, npt.NDArray[Any]]
"""Tensors by name, all with one row per record: a feature matrix is ``{INPUT: matrix}``."""

SAMPLE_ROWS: Final = 256
SAMPLE_EVERY_S: Final = 1.0
"""Least time between two samples, seconds: a copy per batch would be wasted."""


class DeadlineHit(ModelUnavailable):
    """A model has let a call wait for its whole deadline."""


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


class PendingScores:
    """The calls in flight for one request; together they give its scores.

    Parameters
    ----------
    chunks
        The scores of successive rows, shape (m, k), float32.
    """

    def __init__(self, model: ServedModel, chunks: Sequence[Future[Matrix]]) -> None:
        self.model = model
        self._chunks = chunks

    def done(self, within_s: float = 0.0) -> bool:
        """Return whether `scores` would return without waiting, after ``within_s`` at most."""
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
            The server refuses a tensor; the model failed on one of the calls.
        FatalError
            Waiting would not help.
        """
        _, late = wait(self._chunks, timeout_s)
        if late:
            raise ModelUnavailable(f"inference by {self.model.name}: no answer in {timeout_s} s")
        parts = [chunk.result() for chunk in self._chunks]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class ModelServer(Protocol):
    """A server of models. Thread-safe; every call is bounded by a deadline."""

    def start_inference(
        self, model: ServedModel, inputs: Tensors, timeout_s: float
    ) -> PendingScores:
        """Send the rows, in as many calls as ``max_rows`` asks for, and return at once.

        Parameters
        ----------
        inputs
            Tensors by name, n ≥ 1 rows each; not copied, so not to be changed until it is answered.
        timeout_s
            Deadline of each call, seconds from now.
        """

    def infer(self, model: ServedModel, inputs: Tensors, timeout_s: float) -> Matrix:
        """Return the scores of some rows; raises what `PendingScores.scores` raises."""
        # A little longer than the call's own deadline, so that its error is the one seen.
        return self.start_inference(model, inputs, timeout_s).scores(timeout_s + 1.0)

    def model_ready(self, name: str) -> bool:
        """Return whether a model is loaded and ready; False also where the server is away."""

    def load_model(self, name: str) -> None:
        """Load a model from the server's repository; nothing happens if it is loaded.

        Raises
        ------
        ModelUnavailable
            The server is away, or the model does not load (yet).
        """

    def reload_model(self, name: str) -> None:
        """Unload a model and load it again: only that starts a process anew that has died.

        Raises
        ------
        ModelUnavailable
            The server is away, or the model does not load again.
        """

    def model_metadata(self, name: str) -> ServedModel:
        """Return what the server says about a loaded model.

        Raises
        ------
        ModelUnavailable
            The server is away or the model is not loaded.
        ConfigError
            The model does not have the inputs and outputs that are used here.
        """


class SampleRows:
    """The last rows that the champion has answered: real ones to probe and warm a model with.

    Written by one thread, read by any.

    Parameters
    ----------
    clock
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = 0.0
        self._rows: Matrix | None = None

    def keep_sample(self, matrix: Matrix) -> None:
        """Keep a copy of the first rows of a matrix, shape (n, d), that has been answered."""
        now = self._clock()
        if now < self._next or not len(matrix):
            return
        self._next = now + SAMPLE_EVERY_S
        old = self._rows
        fresh = matrix[:SAMPLE_ROWS].copy()
        if old is not None and old.shape[1] == fresh.shape[1] and len(fresh) < SAMPLE_ROWS:
            fresh = np.concatenate([fresh, old[: SAMPLE_ROWS - len(fresh)]])
        self._rows = fresh

    def has_sample(self, width: int) -> bool:
        """Return whether there are rows of ``width`` features."""
        kept = self._rows
        return kept is not None and kept.shape[1] == width

    def sample(self, rows: int, width: int) -> Matrix:
        """Return ``rows`` rows of ``width`` features, float32, the kept ones over and over.

        Zeros stand in where none of that width were kept.
        """
        kept = self._rows
        if kept is None or kept.shape[1] != width:
            return np.zeros((rows, width), dtype=np.float32)
        return np.resize(kept, (rows, width))
