"""Truth, predictions and labels of the events sent, joined by event id as they come.

Rows are numbered in the order in which the events were drawn. Whatever is not one of them, as
another producer's events, is counted and left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.bool_]
Features = npt.NDArray[np.float32]
Column = npt.NDArray[Any]
UNKNOWN: Final = -1


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions as read from their topic; every array has n rows.

    Parameters
    ----------
    scores
        First score, NaN where the outcome is another than predicted.
    is_canary
        Whether the row's variant is canary.
    features
        Shape (n, d), as the model saw them.
    """

    event_ids: Sequence[str]
    scores: Floats
    versions: Sequence[str]
    is_canary: Rows
    partitions: Ints
    offsets: Ints
    keys: Sequence[bytes | None]
    features: Features


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels as read from the interactions; ``at_ms`` is when each became known."""

    event_ids: Sequence[str]
    labels: Floats
    at_ms: Ints


@dataclass(slots=True)
class _Codes:
    """Small numbers for strings."""

    numbers: dict[object, int] = field(default_factory=dict)

    def of(self, values: Sequence[object]) -> Ints:
        known = self.numbers
        return np.fromiter(
            (known.setdefault(value, len(known)) for value in values), np.int64, len(values)
        )


_COLUMNS: Final[dict[str, tuple[Any, float]]] = {
    "oracle": (np.float64, np.nan),
    "label": (np.float64, np.nan),
    "label_at_ms": (np.int64, 0),
    "score": (np.float64, np.nan),
    "version": (np.int64, UNKNOWN),
    "canary": (np.bool_, False),
    "times": (np.int64, 0),
    "partition": (np.int64, UNKNOWN),
    "offset": (np.int64, 0),
    "key": (np.int64, UNKNOWN),
}


class JoinedRows:
    """What is known of each event; columns have one row per event drawn."""

    def __init__(self) -> None:
        self._row_of: dict[str, int] = {}
        self._arrays: dict[str, Column] = {
            name: np.empty(0, kind) for name, (kind, _) in _COLUMNS.items()
        }
        self._versions = _Codes()
        self._keys = _Codes()
        self._features: list[tuple[Ints, Features]] = []
        self.foreign = 0

    def __len__(self) -> int:
        return len(self._row_of)

    def column(self, name: str) -> Column:
        """Return a column: oracle, label, label_at_ms, score, version, canary, times, …."""
        return self._arrays[name][: len(self)]

    def floats(self, name: str) -> Floats:
        """Return a column of numbers."""
        return self.column(name).astype(np.float64, copy=False)

    def version(self, name: str) -> int:
        """Return the number that stands for a version in the column of that name."""
        return self._versions.numbers.get(name, UNKNOWN)

    def add_truth(self, event_ids: Sequence[str], oracle: Floats) -> None:
        """Add events before they are sent."""
        first, n = len(self), len(event_ids)
        self._reserve(first + n)
        self._row_of.update(zip(event_ids, range(first, first + n), strict=True))
        self._arrays["oracle"][first : first + n] = oracle

    def add_predictions(self, found: Predictions) -> None:
        """Add predictions; of an event that has several, the last counts."""
        rows, ours = self._rows(found.event_ids)
        versions = self._versions.of(found.versions)[ours]
        values: dict[str, Column] = {
            "score": found.scores[ours],
            "version": versions,
            "canary": found.is_canary[ours],
            "partition": found.partitions[ours],
            "offset": found.offsets[ours],
            "key": self._keys.of(found.keys)[ours],
        }
        for name, column in values.items():
            self._arrays[name][rows] = column
        np.add.at(self._arrays["times"], rows, 1)
        # Kept to compute what the first champion would have scored on rows it did not see.
        later = (versions > 0) & ~found.is_canary[ours]
        if later.any():
            self._features.append((rows[later], found.features[ours][later]))

    def add_labels(self, found: Labels) -> None:
        """Add labels; of an event that has several, the last counts."""
        rows, ours = self._rows(found.event_ids)
        self._arrays["label"][rows] = found.labels[ours]
        self._arrays["label_at_ms"][rows] = found.at_ms[ours]

    @property
    def predicted(self) -> int:
        """Events with a prediction."""
        return int(np.count_nonzero(self.column("times")))

    @property
    def duplicates(self) -> int:
        """Predictions beyond the first of an event."""
        return int(self.column("times").astype(np.int64).sum()) - self.predicted

    @property
    def joined(self) -> Rows:
        """Rows that have a score and a label."""
        return np.isfinite(self.floats("label")) & np.isfinite(self.floats("score"))

    @property
    def by_champion(self) -> Rows:
        """Joined rows that the champion of the time predicted."""
        return self.joined & ~self.column("canary").astype(np.bool_)

    def features_of(self, chosen: Rows) -> tuple[Ints, Features]:
        """Return those chosen rows that a later champion predicted, with their features.

        Returns
        -------
        Row numbers, shape (m,), and the matrix, shape (m, d).
        """
        if not self._features:
            return np.empty(0, np.int64), np.empty((0, 0), np.float32)
        rows = np.concatenate([rows for rows, _ in self._features])
        matrix = np.concatenate([part for _, part in self._features])
        kept = chosen[rows]
        return rows[kept], matrix[kept]

    def _rows(self, event_ids: Sequence[str]) -> tuple[Ints, Rows]:
        row_of = self._row_of
        found = np.fromiter(
            (row_of.get(event_id, UNKNOWN) for event_id in event_ids), np.int64, len(event_ids)
        )
        ours = found >= 0
        self.foreign += int(len(found) - ours.sum())
        return found[ours], ours

    def _reserve(self, rows: int) -> None:
        for name, (kind, empty) in _COLUMNS.items():
            old = self._arrays[name]
            if len(old) < rows:
                grown: Column = np.full(max(rows, 2 * len(old)), empty, kind)
                grown[: len(old)] = old
                self._arrays[name] = grown
