"""When so many records fail that the fault is not theirs: the dead-letter breaker. Pure.

It counts records, per partition, and not time. What is in the open transaction counts until that
is rolled back, so that what is left are the counts of the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

WINDOW_ROWS: Final = 1_000
"""Records of a partition that the share is taken of, be they fewer yet."""


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """How many dead letters a partition may leave.

    Parameters
    ----------
    share
        Of the last `WINDOW_ROWS` records; 0 for any.
    in_row
        One after the other; 0 for any.
    """

    share: float
    in_row: int


@dataclass(frozen=True, slots=True)
class Trip:
    """Why a partition is closed.

    Parameters
    ----------
    row
        Of the batch: the first dead letter too many.
    kind
        The limit that was passed.
    dead
        Dead letters counted, in a row or of the last `WINDOW_ROWS`.
    """

    partition: int
    row: int
    kind: Literal["in_row", "share"]
    dead: int

    def __str__(self) -> str:
        if self.kind == "in_row":
            return f"{self.dead} dead letters in a row"
        return f"{self.dead} dead letters among the last {WINDOW_ROWS} records"


@dataclass(slots=True)
class _History:
    """Of one partition: records seen, which of the last ones died, and how many in a row."""

    seen: int
    dead: deque[int]
    in_row: int

    def copy(self) -> _History:
        return _History(self.seen, self.dead.copy(), self.in_row)

    def die(self, number: int) -> None:
        """Count the dead letter of the record of that number."""
        follows = bool(self.dead) and self.dead[-1] == number - 1
        self.in_row = self.in_row + 1 if follows else 1
        self.dead.append(number)
        while self.dead[0] <= number - WINDOW_ROWS:
            self.dead.popleft()


class DeadLetterBreaker:
    """Counts dead letters per partition and says when a partition must be closed.

    Parameters
    ----------
    limits
        In force until `tune`.

    Attributes
    ----------
    tripped
        The closed partitions.

    Examples
    --------
    >>> breaker = DeadLetterBreaker(BreakerLimits(share=0.2, in_row=2))
    >>> breaker.add(np.zeros(4, np.int32), [0, 2, 3])
    >>> str(breaker.add(np.zeros(1, np.int32), [0]))
    '3 dead letters in a row'
    """

    def __init__(self, limits: BreakerLimits) -> None:
        self.tripped: dict[int, Trip] = {}
        self._limits = limits
        self._histories: dict[int, _History] = {}
        self._committed: dict[int, _History] = {}

    def add(
        self, partitions: npt.NDArray[np.integer[Any]], dead_rows: Sequence[int]
    ) -> Trip | None:
        """Count a batch into the open transaction.

        Parameters
        ----------
        partitions
            Of every row, in order of offsets, shape (n,).
        dead_rows
            Rows that are dead letters, in any order.

        Returns
        -------
        What trips the breaker, at the first row that does: the transaction must be rolled back.
        """
        counts = np.bincount(partitions)
        dead = np.sort(np.asarray(dead_rows, np.int64))
        dying = set(partitions[dead].tolist())
        trips = []
        for partition in np.flatnonzero(counts).tolist():
            history = self._opened(partition)
            if partition in dying:
                rows = np.flatnonzero(partitions == partition)
                trip = self._bury(partition, history, rows, dead[partitions[dead] == partition])
                trips += [trip] if trip is not None else []
            history.seen += int(counts[partition])
        if not trips:
            return None
        first = min(trips, key=lambda trip: trip.row)
        self.tripped[first.partition] = first
        return first

    def commit(self) -> None:
        """Learn that what was added is in the log."""
        self._committed.clear()

    def roll_back(self) -> None:
        """Learn that what was added since the last commit is not in the log."""
        self._histories.update(self._committed)
        self._committed.clear()

    def forget(self, partitions: Iterable[int]) -> None:
        """Drop partitions that are no longer ours, the closed ones too."""
        for partition in partitions:
            for known in (self._histories, self._committed, self.tripped):
                known.pop(partition, None)

    def tune(self, limits: BreakerLimits) -> set[int]:
        """Change the limits.

        Returns
        -------
        The partitions that were closed and go on: those whose limit is raised or switched off.
        """
        before, self._limits = self._limits, limits
        raised = {
            partition
            for partition, trip in self.tripped.items()
            if _is_raised(getattr(before, trip.kind), getattr(limits, trip.kind))
        }
        for partition in raised:
            del self.tripped[partition]
        return raised

    def _bury(
        self,
        partition: int,
        history: _History,
        rows: npt.NDArray[np.intp],
        dead: npt.NDArray[np.int64],
    ) -> Trip | None:
        """Count the dead letters among a partition's rows, up to the first too many."""
        for row, place in zip(dead.tolist(), np.searchsorted(rows, dead).tolist(), strict=True):
            history.die(history.seen + place)
            trip = self._judge(partition, row, history)
            if trip is not None:
                return trip
        return None

    def _opened(self, partition: int) -> _History:
        """Return a partition's history, after keeping what of it is committed."""
        history = self._histories.setdefault(partition, _History(0, deque(), 0))
        if partition not in self._committed:
            self._committed[partition] = history.copy()
        return history

    def _judge(self, partition: int, row: int, history: _History) -> Trip | None:
        limits = self._limits
        if limits.in_row and history.in_row > limits.in_row:
            return Trip(partition, row, "in_row", history.in_row)
        if limits.share and len(history.dead) > limits.share * WINDOW_ROWS:
            return Trip(partition, row, "share", len(history.dead))
        return None


def _is_raised(before: float, after: float) -> bool:
    return after == 0 or 0 < before < after
