"""Predictions joined with their labels, as the two topics are read. Pure.

One row per event: of several predictions the first in its partition, of several labels the one
that became known first; which was read first does not matter. So the same ranges of offsets give
the same rows.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from penstock_streaming.log_view import Partition
from penstock_training.trainers import Matrix, Vector

from penstock_training_job.topic_log import Chunk

_PREDICTION_ORDER: Final = [("partition", "ascending"), ("offset", "ascending")]
_LABEL_ORDER: Final = [("occurred_at", "ascending"), *_PREDICTION_ORDER]
_ROW_ORDER: Final = [("event_time", "ascending"), ("event_id", "ascending")]


class Kept:
    """The newest rows read of one topic, oldest chunks first to go.

    Parameters
    ----------
    limit
        Most rows kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.rows = 0
        """How many there are."""
        self._parts: dict[Partition, deque[tuple[int, pa.Table]]] = defaultdict(deque)
        self.first: dict[Partition, int] = {}
        """Offset from which on nothing is missing, where that is not where reading began."""

    def add(self, chunk: Chunk, table: pa.Table) -> None:
        """Take the rows of a chunk, later than all before them in its partition."""
        if table.num_rows == 0:
            return
        parts = self._parts[chunk.topic, chunk.partition]
        parts.append((int(chunk.offsets[0]), table))
        self.rows += table.num_rows
        while self.rows > self._limit and self._drop():
            pass

    def _drop(self) -> bool:
        """Drop the oldest chunk of the partition that has most; tell whether there was one."""
        position = max(self._parts, key=lambda p: sum(t.num_rows for _, t in self._parts[p]))
        parts = self._parts[position]
        if len(parts) < 2:
            return False
        self.rows -= parts.popleft()[1].num_rows
        self.first[position] = parts[0][0]
        return True

    def table(self) -> pa.Table | None:
        """Return all rows; None if there are none."""
        tables = [table for parts in self._parts.values() for _, table in parts]
        return pa.concat_tables(tables) if tables else None


def features_of(rows: pa.Table, width: int) -> Matrix:
    """Return the feature matrix, shape (n, width), float32."""
    flat = rows["features"].combine_chunks().flatten()
    matrix: Matrix = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)
    return matrix


def labels_of(rows: pa.Table) -> Vector:
    """Return the labels, shape (n,), float64."""
    return _floats(rows["label"])


def scores_of(rows: pa.Table) -> Vector:
    """Return the scores given when the events were predicted, shape (n,), float64."""
    return _floats(rows["score"])


def ids_digest(rows: pa.Table) -> str:
    """Return the SHA-256 of the event ids in their order."""
    ids: list[Any] = rows["event_id"].to_pylist()
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = column.to_numpy().astype(np.float64)
    return values
