"""The newest errors of the champion, with their event times: what a detector was fed."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from penstock_drift.observations import Floats, Ints

CAPACITY_ROWS: Final = 30_000
"""Errors kept; the older half goes when there would be more."""
BLOCK_ROWS: Final = 100
"""Errors that share a first offset; divides half of the journal."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The errors of events from some time on.

    Parameters
    ----------
    mean
        NaN without any.
    first_offset
        Of the first prediction among them, or a little before.
    """

    mean: float
    rows: int
    first_offset: int


class ErrorJournal:
    """Errors in the order in which they became known; float32, as they are kept."""

    def __init__(self) -> None:
        self._errors = array("f")
        self._times = array("q")
        self.blocks: list[int] = []

    def __len__(self) -> int:
        return len(self._errors)

    @property
    def is_full(self) -> bool:
        """Whether the older half has to go first."""
        return len(self._errors) >= CAPACITY_ROWS

    def add(self, error: float, time: int, offset: int) -> float:
        """Take an error in and return it as it is kept.

        Parameters
        ----------
        time
            Event time, milliseconds.
        offset
            Of the prediction.
        """
        if len(self._errors) % BLOCK_ROWS == 0:
            self.blocks.append(offset)
        elif offset < self.blocks[-1]:
            self.blocks[-1] = offset
        self._errors.append(error)
        self._times.append(time)
        return self._errors[-1]

    def halve(self) -> int:
        """Drop the older half; return how many errors that were."""
        half = CAPACITY_ROWS // 2
        del self._errors[:half], self._times[:half], self.blocks[: half // BLOCK_ROWS]
        return half

    def newest(self, start: int) -> Sequence[float]:
        """Return the errors from the ``start``-th kept on."""
        return self._errors[start:]

    def columns(self) -> tuple[Floats, Ints]:
        """Return errors and event times."""
        # Copies: an array that lends its memory cannot grow.
        return np.array(self._errors, np.float64), np.array(self._times, np.int64)

    def since(self, time: int) -> Evidence:
        """Return what is known of events from ``time`` on, milliseconds."""
        errors, times = self.columns()
        chosen = np.flatnonzero(times >= time)
        if not len(chosen):
            return Evidence(float("nan"), 0, 0)
        blocks = np.unique(chosen // BLOCK_ROWS).tolist()
        first = min(self.blocks[block] for block in blocks)
        return Evidence(float(errors[chosen].mean()), len(chosen), first)

    def to_bytes(self) -> tuple[bytes, bytes]:
        """Return errors (float32) and event times (int64), little endian."""
        errors, times = self.columns()
        return errors.astype("<f4").tobytes(), times.astype("<i8").tobytes()

    @classmethod
    def from_bytes(cls, errors: bytes, times: bytes, blocks: Sequence[int]) -> ErrorJournal:
        """Return a journal as it was when `to_bytes` was called."""
        made = cls()
        made._errors.extend(np.frombuffer(errors, "<f4").tolist())
        made._times.extend(np.frombuffer(times, "<i8").tolist())
        made.blocks = list(blocks)
        return made
