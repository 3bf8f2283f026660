"""The pure core: feature vectors and scores become predictions. No I/O, no clock of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from penstock_schemas.records import ModelVersion
from penstock_streaming.handler import MessageBatch

from penstock_inference.tensors import Matrix, Rows, list_column

PREDICTED = "predicted"
_ORIGIN = pa.struct(
    [
        pa.field("topic", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a writer puts on every prediction it makes.

    Parameters
    ----------
    pipeline
        Pipeline name.
    threshold
        Decision threshold in force.
    attempt
        The writer's incarnation.
    """

    pipeline: str
    threshold: float
    attempt: str


@dataclass(frozen=True, slots=True)
class Vectors:
    """Feature vectors that are to be predictions, as columns of equal length.

    Parameters
    ----------
    event_id, event_time
        Of the event.
    matrix
        Shape (n, d), float32, as the model sees it.
    origin
        Structs topic, partition, offset; null only behind REST.
    """

    event_id: pa.Array
    event_time: pa.Array
    matrix: Matrix
    origin: pa.Array

    def __len__(self) -> int:
        return len(self.matrix)

    def keep(self, rows: Rows) -> Vectors:
        """Return some of the rows."""
        index = pa.array(rows)
        return Vectors(
            self.event_id.take(index),
            self.event_time.take(index),
            self.matrix[rows],
            self.origin.take(index),
        )


@dataclass(frozen=True, slots=True)
class EventVector:
    """One event as the model sees it.

    Parameters
    ----------
    time_ms
        Event time, milliseconds since the epoch, UTC.
    inputs
        The event's fields as they were read, defaults filled in.
    matrix
        Shape (1, d), float32.
    """

    event_id: str
    key: str
    time_ms: int
    inputs: dict[str, Any]
    matrix: Matrix


def origin_column(batch: MessageBatch, rows: Rows, carried: pa.StructArray) -> pa.StructArray:
    """Return where each event lies: what ingest carried along, else the record itself.

    Parameters
    ----------
    batch
        The records of the features topic.
    rows
        Row in ``batch`` of each entry of ``carried``.
    carried
        The FeatureVectors' own origins; null where another producer wrote them.
    """
    if carried.null_count == 0:
        return carried
    own = pa.StructArray.from_arrays(
        [
            pa.repeat(batch.topic, len(rows)),
            pa.array(batch.partitions[rows]),
            pa.array(batch.offsets[rows]),
        ],
        fields=list(_ORIGIN),
    )
    return pc.if_else(carried.is_valid(), carried.cast(_ORIGIN), own)


def decisions(scores: Matrix, threshold: float) -> npt.NDArray[np.bool_]:
    """Return the decision of each row: its first score reaches the threshold.

    Examples
    --------
    >>> decisions(np.array([[0.2], [0.5]], dtype=np.float32), 0.5).tolist()
    [False, True]
    """
    # Compared as float32, the type in which the threshold is published with the score.
    result: npt.NDArray[np.bool_] = scores[:, 0] >= np.float32(threshold)
    return result


def prediction_columns(
    vectors: Vectors,
    scores: Matrix,
    version: ModelVersion,
    variant: str,
    signature: Signature,
    predicted_at_ms: int,
) -> pa.RecordBatch:
    """Return predictions in the columns of prediction.avsc.

    Parameters
    ----------
    vectors
        n feature vectors.
    scores
        Shape (n, k), float32, all finite.
    variant
        champion, canary or shadow.
    predicted_at_ms
        When the model answered, milliseconds since the epoch, UTC.
    """
    n = len(vectors)
    predicted_at = np.full(n, predicted_at_ms, dtype="datetime64[ms]")
    return pa.RecordBatch.from_pydict(
        {
            "event_id": vectors.event_id,
            "event_time": vectors.event_time,
            "predicted_at": pa.array(predicted_at),
            "pipeline": pa.repeat(signature.pipeline, n),
            "model_name": pa.repeat(version.model_name, n),
            "model_version": pa.repeat(version.version, n),
            "variant": pa.repeat(variant, n),
            "scores": list_column(scores),
            "decision": pa.array(decisions(scores, signature.threshold)),
            "threshold": pa.array(np.full(n, signature.threshold, dtype=np.float32)),
            "features": list_column(vectors.matrix),
            "origin": vectors.origin,
            "attempt": pa.repeat(signature.attempt, n),
            "outcome": pa.repeat(PREDICTED, n),
        }
    )
