"""Predictions and interactions become observations: re-keyed by event id, in one partition.

Two loops write to that partition, each in its own transactions. The order in which the log holds
their records is the order in which drift sees them, today and in every repetition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from penstock_monitoring.observations import PARTITION
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_schemas.errors import RecordError, RuleViolation
from penstock_schemas.schema_files import projection
from penstock_streaming.handler import (
    Completed,
    HandledBatch,
    MessageBatch,
    OutputColumns,
    StatelessHandler,
)

PREDICTION_SCHEMA: Final = projection(
    "prediction.avsc",
    (
        "event_id",
        "event_time",
        "model_name",
        "model_version",
        "variant",
        "scores",
        "features",
        "outcome",
    ),
)
INTERACTION_SCHEMA: Final = projection("interaction.avsc", ("event_id", "label", "occurred_at"))
VARIANTS: Final = ("champion", "canary")

Bools = npt.NDArray[np.bool_]
Source = Literal["prediction", "label"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a decoded batch become observations, and which dead letters; others neither.

    Parameters
    ----------
    kept, refused
        Shape (n,).
    error
        Makes the error of a refused row.
    """

    kept: Bools
    refused: Bools
    error: Callable[[], RecordError]


class RekeyHandler(StatelessHandler):
    """Writes the observations of one input topic.

    Parameters
    ----------
    source
        What the input holds.
    decoder
        Of `PREDICTION_SCHEMA` or `INTERACTION_SCHEMA`.
    encoder
        Of observation.avsc.
    output_topic
        The observations topic.
    """

    def __init__(
        self,
        source: Source,
        decoder: ColumnarDecoder,
        encoder: ColumnarEncoder,
        output_topic: str,
    ) -> None:
        self._source = source
        self._decoder = decoder
        self._encoder = encoder
        self._output_topic = output_topic
        self._select = select_predictions if source == "prediction" else select_labels
        self._columns = prediction_columns if source == "prediction" else label_columns

    def submit(self, batch: MessageBatch) -> Completed:
        """Re-key a batch.

        Raises
        ------
        RegistryUnavailable
            A writer's schema is not known yet and the registry does not answer.
        """
        decoded = self._decoder.decode(batch.values)
        dead = list(decoded.errors)
        selection = self._select(decoded.columns)
        dead.extend((int(row), selection.error()) for row in decoded.rows[selection.refused])
        dead.sort(key=lambda item: item[0])
        skipped = {
            "tombstone": len(decoded.tombstones),
            f"no_{self._source}": int((~selection.kept & ~selection.refused).sum()),
        }
        rows = decoded.rows[selection.kept]
        outputs = []
        if len(rows):
            columns = self._columns(decoded.columns.filter(pa.array(selection.kept)))
            ids = columns.column("event_id").cast(pa.binary()).to_pylist()
            values = self._encoder.encode(columns)
            partitions = np.full(len(rows), PARTITION, np.int32)
            outputs.append(OutputColumns(self._output_topic, ids, values, partitions, rows))
        kept = {reason: n for reason, n in skipped.items() if n}
        return Completed(HandledBatch(outputs, dead, kept, len(rows)))


def select_predictions(columns: pa.RecordBatch) -> Selection:
    """Keep what a champion or a canary has predicted; refuse a prediction without a score."""
    outcome = pc.equal(columns.column("outcome").cast(pa.string()), "predicted")
    variant = pc.is_in(columns.column("variant"), pa.array(VARIANTS))
    wanted = _bools(pc.and_(outcome, variant))
    good = _named(columns) & np.isfinite(first_scores(columns.column("scores")))
    text = "a prediction needs an id and a finite score"
    return Selection(
        wanted & good,
        wanted & ~good,
        lambda: RuleViolation(text, field="scores", expected="a number"),
    )


def select_labels(columns: pa.RecordBatch) -> Selection:
    """Keep what carries a label; refuse one that is no number or is on no event."""
    labels = columns.column("label")
    wanted = _bools(labels.is_valid())
    good = _named(columns) & np.isfinite(labels.to_numpy(zero_copy_only=False))
    text = "a label needs an event id and a finite value"
    return Selection(
        wanted & good,
        wanted & ~good,
        lambda: RuleViolation(text, field="label", expected="a number"),
    )


def prediction_columns(columns: pa.RecordBatch) -> pa.RecordBatch:
    """Return the observations of predictions."""
    n = len(columns)
    scores = first_scores(columns.column("scores")).astype(np.float64)
    return pa.record_batch(
        {
            "event_id": columns.column("event_id"),
            "time": columns.column("event_time"),
            "label": pa.nulls(n, pa.float64()),
            "score": pa.array(scores),
            "model_name": columns.column("model_name"),
            "model_version": columns.column("model_version"),
            "variant": columns.column("variant"),
            "features": columns.column("features"),
        }
    )


def label_columns(columns: pa.RecordBatch) -> pa.RecordBatch:
    """Return the observations of labelled interactions."""
    n = len(columns)
    empty = pa.repeat("", n)
    offsets = pa.array(np.zeros(n + 1, np.int32))
    return pa.record_batch(
        {
            "event_id": columns.column("event_id"),
            "time": columns.column("occurred_at"),
            "label": columns.column("label"),
            "score": pa.nulls(n, pa.float64()),
            "model_name": empty,
            "model_version": empty,
            "variant": empty,
            "features": pa.ListArray.from_arrays(offsets, pa.array([], pa.float32())),
        }
    )


def first_scores(scores: pa.Array) -> npt.NDArray[np.float32]:
    """Return the first element of each list, float32; NaN where a list is empty."""
    result = np.full(len(scores), np.nan, np.float32)
    lengths = scores.value_lengths().to_numpy(zero_copy_only=False)
    filled = np.flatnonzero(lengths > 0)
    if len(filled):
        starts = scores.offsets.to_numpy()[:-1][filled]
        values = scores.values.to_numpy(zero_copy_only=False)
        result[filled] = values[starts]
    return result


def _named(columns: pa.RecordBatch) -> Bools:
    return _bools(pc.greater(pc.binary_length(columns.column("event_id")), 0))


def _bools(column: pa.Array) -> Bools:
    values: Bools = column.to_numpy(zero_copy_only=False).astype(np.bool_)
    return values
