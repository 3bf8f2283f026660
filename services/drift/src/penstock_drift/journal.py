"""The newest losses of the champion, with what its scores made one expect, by event time."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from penstock_monitoring.observations import Floats, Ints

CAPACITY_ROWS: Final = 30_000
"""Losses kept; the older half goes when there would be more."""
BLOCK_ROWS: Final = 100
"""Losses that share a first offset; divides half of the journal."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One label's loss.

    Parameters
    ----------
    loss
        Bounded log loss, in [0, 1].
    expected
        What the score itself expects, above 0.
    time
        Event time, milliseconds.
    offset
        Of the prediction.
    """

    loss: float
    expected: float
    time: int
    offset: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """The losses of events from some time on.

    Parameters
    ----------
    ratio, before
        Sum of losses over what was expected, from that time on and before; NaN without any.
    first_offset
        Of the first prediction among them, or a little before.
    """

    ratio: float
    before: float
    rows: int
    first_offset: int


class LossJournal:
    """Losses in the order in which they became known; float32, as they are kept."""

    def __init__(self) -> None:
        self._losses = array("f")
        self._expected = array("f")
        self._times = array("q")
        self.blocks: list[int] = []

    def __len__(self) -> int:
        return len(self._losses)

    @property
    def is_full(self) -> bool:
        """Whether the older half has to go first."""
        return len(self._losses) >= CAPACITY_ROWS

    def add(self, entry: Loss) -> tuple[float, float]:
        """Take one in; return loss and expectation as they are kept."""
        if len(self._losses) % BLOCK_ROWS == 0:
            self.blocks.append(entry.offset)
        elif entry.offset < self.blocks[-1]:
            self.blocks[-1] = entry.offset
        self._losses.append(entry.loss)
        self._expected.append(entry.expected)
        self._times.append(entry.time)
        return self._losses[-1], self._expected[-1]

    def halve(self) -> int:
        """Drop the older half; return how many that were."""
        half = CAPACITY_ROWS // 2
        del self._losses[:half], self._expected[:half], self._times[:half]
        del self.blocks[: half // BLOCK_ROWS]
        return half

    def excess(self, start: int = 0) -> Floats:
        """Return loss less expectation from the ``start``-th kept on."""
        # Copies: an array that lends its memory cannot grow.
        losses = np.array(self._losses[start:], np.float64)
        return losses - np.array(self._expected[start:], np.float64)

    def times(self) -> Ints:
        """Return the event times."""
        return np.array(self._times, np.int64)

    def ratio(self, rows: int) -> float:
        """Return losses over expectations of the newest rows; NaN without any."""
        start = max(0, len(self) - rows)
        return _ratio(np.array(self._losses[start:]), np.array(self._expected[start:]))

    def since(self, time: int) -> Evidence:
        """Return what is known of events from ``time`` on, milliseconds."""
        losses, expected = np.array(self._losses), np.array(self._expected)
        is_after = self.times() >= time
        blocks = np.unique(np.flatnonzero(is_after) // BLOCK_ROWS).tolist()
        return Evidence(
            _ratio(losses[is_after], expected[is_after]),
            _ratio(losses[~is_after], expected[~is_after]),
            int(is_after.sum()),
            min((self.blocks[block] for block in blocks), default=0),
        )

    def to_bytes(self) -> tuple[bytes, bytes, bytes]:
        """Return losses, expectations (float32) and event times (int64), little endian."""
        return (
            np.array(self._losses, "<f4").tobytes(),
            np.array(self._expected, "<f4").tobytes(),
            np.array(self._times, "<i8").tobytes(),
        )

    @classmethod
    def from_bytes(
        cls, losses: bytes, expected: bytes, times: bytes, blocks: Sequence[int]
    ) -> LossJournal:
        """Return a journal as it was when `to_bytes` was called."""
        made = cls()
        made._losses.extend(np.frombuffer(losses, "<f4").tolist())
        made._expected.extend(np.frombuffer(expected, "<f4").tolist())
        made._times.extend(np.frombuffer(times, "<i8").tolist())
        made.blocks = list(blocks)
        return made


def _ratio(losses: Floats, expected: Floats) -> float:
    total = float(expected.sum(dtype=np.float64))
    return float(losses.sum(dtype=np.float64)) / total if total > 0.0 else float("nan")
