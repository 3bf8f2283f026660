"""Finding the rows that a model fails on.

The server says only that a call failed, and the cause may be one row or the model itself. A row is
called bad when it fails alone while a row that is known to be good goes through just before. If no
row goes through, the model is away and nothing is said about any record.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from penstock_schemas.errors import ModelRejected, ModelUnavailable

from penstock_inference.tensors import Matrix, RowErrors

ROUND_S: Final = 0.05
"""Pause between two probes of a model whose process has just died, seconds."""


@dataclass(slots=True)
class _Search:
    infer: Callable[[Matrix], Matrix]
    matrix: Matrix
    clock: Callable[[], float]
    deadline: float
    parts: dict[int, Matrix] = field(default_factory=dict)
    suspects: list[tuple[int, ModelRejected]] = field(default_factory=list)

    def split(self, start: int, stop: int) -> None:
        """Score rows start..stop by halves; rows that fail alone become suspects."""
        if self.clock() > self.deadline:
            raise ModelUnavailable("isolating a failing record took too long")
        try:
            self.parts[start] = self.infer(self.matrix[start:stop])
        except ModelRejected as exc:
            if stop - start == 1:
                self.suspects.append((start, exc))
                return
            middle = (start + stop) // 2
            self.split(start, middle)
            self.split(middle, stop)

    def wait_for(self, probe: Matrix, pause: Callable[[float], object]) -> None:
        """Return once the model answers a good row."""
        while True:
            try:
                self.infer(probe)
                return
            except ModelRejected as exc:
                if self.clock() > self.deadline:
                    raise ModelUnavailable(f"no row goes through the model: {exc}") from exc
                pause(ROUND_S)


def isolate(
    infer: Callable[[Matrix], Matrix],
    matrix: Matrix,
    probe: Matrix | None,
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
) -> tuple[Matrix, RowErrors]:
    """Score a batch whose merged call has failed.

    Parameters
    ----------
    infer
        Scores a matrix of one or more rows; raises ModelRejected where the model fails.
    matrix
        Shape (n, d), float32.
    probe
        A row that went through before, shape (1, d); zeros stand in where there is none.
    timeout_s
        Time for all of it, seconds.

    Returns
    -------
    Scores, shape (n, k), NaN in bad rows; and (row, why) of the bad rows, ascending.

    Raises
    ------
    ModelUnavailable
        The model fails on good rows too, or the time is over.
    """
    search = _Search(infer, matrix, clock, clock() + timeout_s)
    search.split(0, len(matrix))
    if search.parts:
        good = min(search.parts)
        probe = matrix[good : good + 1]
    elif probe is None:
        probe = np.zeros((1, matrix.shape[1]), dtype=np.float32)
    errors: RowErrors = []
    for row, _ in search.suspects:
        search.wait_for(probe, pause)
        try:
            search.parts[row] = infer(matrix[row : row + 1])
        except ModelRejected as exc:
            errors.append((row, exc))
    if search.suspects:
        search.wait_for(probe, pause)  # the last failure was the row's own as well
    width = next(iter(search.parts.values())).shape[1] if search.parts else 1
    scores = np.full((len(matrix), width), np.nan, dtype=np.float32)
    for start, part in search.parts.items():
        scores[start : start + len(part)] = part
    return scores, errors
