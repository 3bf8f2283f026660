"""The loop's handler: a batch of feature vectors goes to the models, predictions come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_schemas.errors import ModelUnavailable
from penstock_streaming.handler import (
    Completed,
    HandledBatch,
    MessageBatch,
    OutputColumns,
    PendingBatch,
    StatelessHandler,
)

from penstock_inference.answers import Answers, Asked, AskedOne, AskedSeveral
from penstock_inference.batch_work import BatchWork
from penstock_inference.expiry import expired_rows
from penstock_inference.metrics import InferenceMetrics
from penstock_inference.model_calls import Model, ModelCalls
from penstock_inference.pipeline import (
    AnsweredBy,
    Signature,
    Vectors,
    origin_column,
    prediction_columns,
)
from penstock_inference.routing import RouteTable
from penstock_inference.shadows import ShownRows
from penstock_inference.tensors import Rows, feature_matrix


@dataclass(frozen=True, slots=True)
class Codecs:
    """Feature vectors in, predictions out."""

    decoder: ColumnarDecoder
    encoder: ColumnarEncoder


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
        self._calls = ModelCalls(model, metrics)
        self._table: RouteTable | None = None

    def submit(self, batch: MessageBatch) -> PendingBatch:
        """Decode a batch and send it to the model.

        Raises
        ------
        RegistryUnavailable
            A writer's schema is not known yet and the registry does not answer.
        ModelUnavailable
            No model serves.
        """
        table = self._current_table()
        work = self._decoded(batch, table)
        times = work.vectors.event_time
        work.expired = expired_rows(times, self.clock_ms(), self.model.deadline_ms())
        if table.canaries:
            work.which = table.split(_taken(batch.keys, work.rows))
        if not len(work.rows) or (work.expired is not None and work.expired.all()):
            return Completed(self.finish(work, None))
        return PendingPredictions(self, work, self._ask(work))

    def _decoded(self, batch: MessageBatch, table: RouteTable) -> BatchWork:
        """Return what a batch holds; what the champion cannot take is dropped."""
        with self.metrics.stage("decode"):
            decoded = self.codecs.decoder.decode(batch.values)
        columns, rows = decoded.columns, decoded.rows
        width = table.champion.model.width
        matrix, good, errors = feature_matrix(columns.column("features"), width)
        origin = origin_column(batch, rows, columns.column("origin"))
        vectors = Vectors(columns.column("event_id"), columns.column("event_time"), matrix, origin)
        work = BatchWork(batch, table, vectors, rows)
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
        return work

    def _current_table(self) -> RouteTable:
        table = self.model.table()
        if table is None:
            raise ModelUnavailable(f"no model serves {self.signature.pipeline} yet")
        if table is not self._table:
            self._calls.forget_all_but(table.routes)
            self._table = table
        return table

    def _ask(self, work: BatchWork) -> Asked:
        """Send the rows to the routes of their keys; no key is looked at without a canary."""
        matrix, which, table = work.vectors.matrix, work.which, work.table
        if work.expired is not None:
            matrix = matrix[~work.expired]
            which = None if which is None else which[~work.expired]
        if which is not None and which.any():
            return AskedSeveral(self._calls, self.model.breakers, table, matrix, which)
        return AskedOne(self._calls, table.champion, matrix)

    def finish(self, work: BatchWork, answers: Answers | None) -> HandledBatch:
        """Return the outcome of every row; None for the answers if no row was asked about."""
        if not len(work.rows):
            return work.handled([])
        answers = work.all_rows(answers)
        scores, by = answers.scores, answers.by
        if answers.errors:
            kept = np.delete(np.arange(len(work.rows)), [row for row, _ in answers.errors])
            work.drop(answers.errors)
            scores, by = scores[kept], by.keep(kept)
            work.keep(kept)
        if not len(work.rows):
            return work.handled([])
        with self.metrics.stage("encode"):
            columns = prediction_columns(
                work.vectors, scores, by, self.signature, self.clock_ms(), work.expired
            )
            values = self.codecs.encoder.encode(columns)
        self._count(work, answers, by)
        if work.table.shadows:
            self._show(work)
        output = OutputColumns(
            topic=self.output_topic,
            keys=_taken(work.batch.keys, work.rows),
            values=values,
            partitions=work.batch.partitions[work.rows],
            rows=work.rows,
        )
        return work.handled([output])

    def _show(self, work: BatchWork) -> None:
        """Give the shadows what others have answered."""
        vectors, rows = work.vectors, work.rows
        if work.expired is not None:
            answered = np.flatnonzero(~work.expired)
            vectors, rows = vectors.keep(answered), rows[answered]
        keys = _taken(work.batch.keys, rows)
        self.model.shadow(ShownRows(work.table, vectors, keys, work.batch.partitions[rows]))

    def _count(self, work: BatchWork, answers: Answers, by: AnsweredBy) -> None:
        rows = len(work.rows)
        if work.expired is not None:
            answered = np.flatnonzero(~work.expired)
            self.metrics.expired(rows - len(answered))
            by, rows = by.keep(answered), len(answered)
        for route, count in by.counts(rows):
            self.metrics.predicted(route, count)
        for canary, count in answers.fallbacks:
            self.metrics.fell_back(canary, count)


class PendingPredictions:
    """A batch that is with the models."""

    def __init__(self, handler: InferenceHandler, work: BatchWork, asked: Asked) -> None:
        self._handler = handler
        self._work = work
        self._asked = asked

    def done(self, within_s: float = 0.0) -> bool:
        """Tell whether the models have answered, or do in time."""
        return self._asked.done(within_s)

    def result(self, timeout_s: float) -> HandledBatch:
        """Return the outcome of every row; raises what the champion's absence raises."""
        with self._handler.metrics.stage("infer"):
            answers = self._asked.answers(timeout_s)
        return self._handler.finish(self._work, answers)


def _taken(column: Sequence[bytes | None], rows: Rows) -> Sequence[bytes | None]:
    """Return some entries of a list; the list itself where that is all of it."""
    if len(rows) == len(column):
        return column
    return [column[row] for row in rows.tolist()]
