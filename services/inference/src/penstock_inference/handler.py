"""The loop's handler: a batch of feature vectors goes to the model, predictions come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_schemas.errors import ModelRejected, ModelUnavailable, ShapeMismatch
from penstock_streaming.handler import (
    Completed,
    HandledBatch,
    MessageBatch,
    OutputColumns,
    PendingBatch,
    StatelessHandler,
)

from penstock_inference.batch_work import BatchWork
from penstock_inference.isolation import isolate
from penstock_inference.metrics import InferenceMetrics
from penstock_inference.pipeline import Signature, Vectors, origin_column, prediction_columns
from penstock_inference.routing import Route
from penstock_inference.tensors import Matrix, RowErrors, Rows, feature_matrix, finite_scores
from penstock_inference.triton import ScoringCall, ServedModel

ISOLATION_S = 10.0
"""Time to find the rows that a model fails on, seconds; then the batch is tried again."""


class Scorer(Protocol):
    """The model server; `penstock_inference.triton.TritonServer` in service."""

    def start(self, model: ServedModel, matrix: Matrix, timeout_s: float) -> ScoringCall:
        """Send a matrix and return at once."""

    def infer(self, model: ServedModel, matrix: Matrix, timeout_s: float) -> Matrix:
        """Return the scores of a matrix."""


@dataclass(frozen=True, slots=True)
class Codecs:
    """Feature vectors in, predictions out."""

    decoder: ColumnarDecoder
    encoder: ColumnarEncoder


@dataclass(frozen=True, slots=True)
class Model:
    """How the handler gets scores.

    Parameters
    ----------
    scorer
        The model server.
    route
        Returns what serves now; None while nothing does.
    timeout_s
        Deadline of one inference call, seconds.
    """

    scorer: Scorer
    route: Callable[[], Route | None]
    timeout_s: float


class InferenceHandler(StatelessHandler):
    """Predicts every record of the features topic.

    Parameters
    ----------
    output_topic
        Topic of the predictions.
    signature
        What is put on each prediction.
    clock_ms
        Milliseconds since the epoch, UTC.
    """

    def __init__(
        self,
        *,
        output_topic: str,
        codecs: Codecs,
        model: Model,
        signature: Signature,
        metrics: InferenceMetrics,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.output_topic = output_topic
        self.codecs = codecs
        self.model = model
        self.signature = signature
        self.metrics = metrics
        self.clock_ms = clock_ms
        self._probes: dict[str, Matrix] = {}

    def submit(self, batch: MessageBatch) -> PendingBatch:
        """Decode a batch and send it to the model.

        Raises
        ------
        RegistryUnavailable
            A writer's schema is not known yet and the registry does not answer.
        ModelUnavailable
            No model serves.
        """
        route = self.model.route()
        if route is None:
            raise ModelUnavailable(f"no model serves {self.signature.pipeline} yet")
        with self.metrics.stage("decode"):
            decoded = self.codecs.decoder.decode(batch.values)
        columns, rows = decoded.columns, decoded.rows
        matrix, good, errors = feature_matrix(columns.column("features"), route.model.width)
        origin = origin_column(batch, rows, columns.column("origin"))
        vectors = Vectors(columns.column("event_id"), columns.column("event_time"), matrix, origin)
        work = BatchWork(batch, route, vectors, rows)
        work.dead.extend(decoded.errors)
        if len(decoded.tombstones):
            work.skipped["tombstone"] = len(decoded.tombstones)
        if errors:
            work.drop(errors)
            index = pa.array(good)
            work.vectors = Vectors(
                vectors.event_id.take(index),
                vectors.event_time.take(index),
                matrix,
                origin.take(index),
            )
            work.rows = rows[good]
        if not len(work.rows):
            return Completed(work.handled([]))
        call = self.model.scorer.start(route.model, matrix, self.model.timeout_s)
        return PendingPredictions(self, work, call)

    def score(
        self, work: BatchWork, call: ScoringCall, timeout_s: float
    ) -> tuple[Matrix, RowErrors]:
        """Return the scores of a batch and the rows that have none; finds a failing row.

        Raises
        ------
        ModelUnavailable
            The model is away; the same batch is to be tried again.
        """
        model, matrix = work.route.model, work.vectors.matrix
        try:
            with self.metrics.stage("infer"):
                scores = call.scores(timeout_s)
            errors: RowErrors = []
        except ShapeMismatch as exc:
            # All rows have the model's own width: what is refused is the same for each.
            return np.empty((len(matrix), 1), dtype=np.float32), [
                (row, exc) for row in range(len(matrix))
            ]
        except ModelRejected:
            self.metrics.isolations.inc()

            def infer(part: Matrix) -> Matrix:
                return self.model.scorer.infer(model, part, self.model.timeout_s)

            scores, errors = isolate(infer, matrix, self._probes.get(model.name), ISOLATION_S)
        known = {row for row, _ in errors}
        errors.extend((row, e) for row, e in finite_scores(scores) if row not in known)
        errors.sort(key=lambda item: item[0])
        bad = {row for row, _ in errors}
        good = next((row for row in range(len(matrix)) if row not in bad), None)
        if good is not None and model.name not in self._probes:
            self._probes = {model.name: matrix[good : good + 1].copy()}
        return scores, errors

    def finish(self, work: BatchWork, scores: Matrix, errors: RowErrors) -> HandledBatch:
        """Return the outcome of every row of a scored batch."""
        if errors:
            kept = np.delete(np.arange(len(work.rows)), [row for row, _ in errors])
            work.drop(errors)
            scores = scores[kept]
            work.vectors, work.rows = work.vectors.keep(kept), work.rows[kept]
        if not len(work.rows):
            return work.handled([])
        with self.metrics.stage("encode"):
            columns = prediction_columns(
                work.vectors,
                scores,
                work.route.version,
                work.route.variant,
                self.signature,
                self.clock_ms(),
            )
            values = self.codecs.encoder.encode(columns)
        self.metrics.predicted(work.route, len(values))
        output = OutputColumns(
            topic=self.output_topic,
            keys=_taken(work.batch.keys, work.rows),
            values=values,
            partitions=work.batch.partitions[work.rows],
            rows=work.rows,
        )
        return work.handled([output])


class PendingPredictions:
    """A batch that is with the model."""

    def __init__(self, handler: InferenceHandler, work: BatchWork, call: ScoringCall) -> None:
        self._handler = handler
        self._work = work
        self._call = call

    def done(self) -> bool:
        """Tell whether the model has answered."""
        return self._call.done()

    def result(self, timeout_s: float) -> HandledBatch:
        """Return the outcome of every row; raises what the model's absence raises."""
        scores, errors = self._handler.score(self._work, self._call, timeout_s)
        return self._handler.finish(self._work, scores, errors)


def _taken(column: Sequence[bytes | None], rows: Rows) -> Sequence[bytes | None]:
    """Return some entries of a list; the list itself where that is all of it."""
    if len(rows) == len(column):
        return column
    return [column[row] for row in rows.tolist()]
