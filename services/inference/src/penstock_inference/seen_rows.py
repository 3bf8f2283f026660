"""A few rows that went through the champion: real ones to probe and to warm a model with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from penstock_inference.tensors import Matrix

ROWS: Final = 256
"""Rows kept."""
EVERY_S: Final = 1.0
"""Least time between two notes, seconds: a copy per batch would be wasted."""


class SeenRows:
    """The last rows noted; written by one thread, read by any.

    Parameters
    ----------
    clock
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = 0.0
        self._rows: Matrix | None = None

    def note(self, matrix: Matrix) -> None:
        """Keep a copy of the first rows of a matrix, shape (n, d), that has been answered."""
        now = self._clock()
        if now < self._next or not len(matrix):
            return
        self._next = now + EVERY_S
        old = self._rows
        fresh = matrix[:ROWS].copy()
        if old is not None and old.shape[1] == fresh.shape[1] and len(fresh) < ROWS:
            fresh = np.concatenate([fresh, old[: ROWS - len(fresh)]])
        self._rows = fresh

    def has(self, width: int) -> bool:
        """Tell whether rows of ``width`` features were noted."""
        noted = self._rows
        return noted is not None and noted.shape[1] == width

    def sample(self, rows: int, width: int) -> Matrix:
        """Return ``rows`` rows of ``width`` features, float32, the noted ones over and over.

        Zeros stand in where none of that width was noted.
        """
        noted = self._rows
        if noted is None or noted.shape[1] != width:
            return np.zeros((rows, width), dtype=np.float32)
        return np.resize(noted, (rows, width))
