"""The pure core: feature vectors and scores become predictions. No I/O, no clock of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from penstock_pipelines.model import PipelineConfig
from penstock_streaming.handler import MessageBatch

from penstock_inference.model_server import Matrix
from penstock_inference.tensors import Rows, list_column
from penstock_inference.traffic_split import Route, Which

PREDICTED = "predicted"
EXPIRED = "expired"
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

    @classmethod
    def of_pipeline(
        cls, config: PipelineConfig, threshold: float | None, attempt: str
    ) -> Signature:
        """Return the signature with ``threshold`` in place of the pipeline's, where it is given."""
        in_force = config.threshold if threshold is None else threshold
        return cls(config.pipeline, in_force, attempt)


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
class AnsweredBy:
    """Which route gave the scores of each row.

    Parameters
    ----------
    which
        Per row an index in ``routes``; None where the first gave all.
    """

    routes: tuple[Route, ...]
    which: Which | None = None

    def keep(self, rows: Rows) -> AnsweredBy:
        """Return some of the rows."""
        return self if self.which is None else AnsweredBy(self.routes, self.which[rows])

    def counts(self, rows: int) -> Iterator[tuple[Route, int]]:
        """Yield each route that gave scores, and to how many of ``rows`` rows."""
        if self.which is None:
            yield self.routes[0], rows
            return
        counts = np.bincount(self.which, minlength=len(self.routes))
        yield from ((self.routes[at], int(counts[at])) for at in np.flatnonzero(counts))

    def columns(self, rows: int) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Return model name, version and variant of each of ``rows`` rows."""
        facts = [(r.version.model_name, r.version.version, r.variant) for r in self.routes]
        if self.which is None:
            name, version, variant = (pa.repeat(fact, rows) for fact in facts[0])
            return name, version, variant
        index = pa.array(self.which)
        name, version, variant = (
            pa.array(column, pa.string()).take(index) for column in zip(*facts, strict=True)
        )
        return name, version, variant


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
    answered_by: AnsweredBy,
    signature: Signature,
    predicted_at_ms: int,
    expired: npt.NDArray[np.bool_] | None = None,
) -> pa.RecordBatch:
    """Return predictions in the columns of prediction.avsc.

    Parameters
    ----------
    vectors
        n feature vectors.
    scores
        Shape (n, k), float32, finite in all rows that have not expired.
    predicted_at_ms
        When the model answered, milliseconds since the epoch, UTC.
    expired
        Shape (n,): the rows without an answer; None where there is none.
    """
    n = len(vectors)
    model_name, model_version, variant = answered_by.columns(n)
    decided = decisions(scores, signature.threshold)
    outcome = pa.repeat(PREDICTED, n)
    if expired is not None:
        decided &= ~expired  # a NaN is no decision either way
        outcome = pa.array([PREDICTED, EXPIRED]).take(pa.array(expired.astype(np.int8)))
    predicted_at = np.full(n, predicted_at_ms, dtype="datetime64[ms]")
    return pa.RecordBatch.from_pydict(
        {
            "event_id": vectors.event_id,
            "event_time": vectors.event_time,
            "predicted_at": pa.array(predicted_at),
            "pipeline": pa.repeat(signature.pipeline, n),
            "model_name": model_name,
            "model_version": model_version,
            "variant": variant,
            "scores": list_column(scores, expired),
            "decision": pa.array(decided),
            "threshold": pa.array(np.full(n, signature.threshold, dtype=np.float32)),
            "features": list_column(vectors.matrix),
            "origin": vectors.origin,
            "attempt": pa.repeat(signature.attempt, n),
            "outcome": outcome,
        }
    )
