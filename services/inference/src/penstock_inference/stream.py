"""The stream's half of the data plane: a batch of feature vectors becomes predictions.

The loop submits a batch, which is decoded and sent to the models at once, and asks for its outcome
later, in order. Events older than the pipeline's deadline become predictions without scores: the
model is not asked about them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_schemas.errors import RecordError
from penstock_streaming.handler import (
    Completed,
    HandledBatch,
    MessageBatch,
    OutputColumns,
    PendingBatch,
    StatelessHandler,
)

from penstock_inference.metrics import InferenceMetrics
from penstock_inference.model_server import Matrix
from penstock_inference.predictions import (
    AnsweredBy,
    Signature,
    Vectors,
    origin_column,
    prediction_columns,
)
from penstock_inference.scoring import Answers, DataPlane, PendingAnswers
from penstock_inference.shadows import Shadows, ShownRows
from penstock_inference.tensors import Rows, feature_matrix
from penstock_inference.traffic_split import RouteTable, Which

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Codecs:
    """Feature vectors in, predictions out."""

    decoder: ColumnarDecoder
    encoder: ColumnarEncoder


@dataclass(slots=True)
class BatchState:
    """The rows of a batch that are still alive, between submit and result, and what became of all.

    Parameters
    ----------
    table
        Who was to answer; the champion's refusal makes a dead letter.
    vectors
        The rows that are alive.
    rows
        Row in the batch of each, ascending.
    which
        Per row the route of its key, later the one that answered, by index in the table; None
        where all are the champion's.
    expired
        Which rows are too old for an answer; None where none is.
    scores
        Shape (n, k), NaN in rows that have expired; None before the models have answered.
    """

    batch: MessageBatch
    table: RouteTable
    vectors: Vectors
    rows: Rows
    which: Which | None = None
    expired: Mask | None = None
    scores: Matrix | None = None
    dead: list[tuple[int, RecordError]] = field(default_factory=list)
    origins: dict[int, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def keep_rows(self, kept: Rows) -> None:
        """Keep some of the rows, counted within those that are alive."""
        self.vectors, self.rows = self.vectors.keep(kept), self.rows[kept]
        self.which = None if self.which is None else self.which[kept]
        self.expired = None if self.expired is None else self.expired[kept]
        self.scores = None if self.scores is None else self.scores[kept]

    def note_dead(self, errors: Sequence[tuple[int, RecordError]]) -> None:
        """Note dead letters, counted within the rows that are alive; keeps no row out yet."""
        for at, error in errors:
            row = int(self.rows[at])
            place = self.vectors.origin[at].as_py()
            error.model = self.table.champion.model.name
            self.dead.append((row, error))
            self.origins[row] = f"{place['topic']}/{place['partition']}/{place['offset']}"

    def take_answers(self, answers: Answers | None) -> None:
        """Put the answers beside the rows; what the champion fails on is dead.

        Parameters
        ----------
        answers
            Of the rows that have not expired; None where there are none.
        """
        if answers is not None and self.expired is None:
            self.scores, self.which, errors = answers.scores, answers.which, answers.errors
        else:
            errors = self._take_among_expired(answers)
        if errors:
            self.note_dead(errors)
            self.keep_rows(np.delete(np.arange(len(self.rows)), [row for row, _ in errors]))

    def _take_among_expired(self, answers: Answers | None) -> list[tuple[int, RecordError]]:
        """Put the answers back among the rows that have expired, which name their key's route."""
        rows = len(self.rows)
        which = np.zeros(rows, dtype=np.int8) if self.which is None else self.which.copy()
        width = 1 if answers is None else answers.scores.shape[1]
        self.scores = np.full((rows, width), np.nan, dtype=np.float32)
        self.which = which
        if answers is None:
            return []
        asked = np.arange(rows) if self.expired is None else np.flatnonzero(~self.expired)
        self.scores[asked] = answers.scores
        which[asked] = 0 if answers.which is None else answers.which
        return [(int(asked[row]), error) for row, error in answers.errors]

    @property
    def answered_by(self) -> AnsweredBy:
        """Who answered each row."""
        if self.which is None:
            return AnsweredBy((self.table.champion,))
        return AnsweredBy(self.table.routes, self.which)

    def handled(self, outputs: list[OutputColumns]) -> HandledBatch:
        """Return the outcome of every row."""
        self.dead.sort(key=lambda item: item[0])
        return HandledBatch(outputs, self.dead, self.skipped, len(self.rows), self.origins)


class InferenceHandler(StatelessHandler):
    """Predicts every record of the features topic.

    Parameters
    ----------
    output_topic
        Topic of the predictions.
    signature
        What is put on each prediction.
    shadows
        Shown what champion and canaries have answered.
    deadline_ms
        Returns the age of an event at which the model is not asked any more, milliseconds; it may
        change while the loop runs.
    clock_ms
        Milliseconds since the epoch, UTC.
    """

    def __init__(
        self,
        *,
        output_topic: str,
        codecs: Codecs,
        plane: DataPlane,
        signature: Signature,
        metrics: InferenceMetrics,
        shadows: Shadows | None = None,
        deadline_ms: Callable[[], int | None] = lambda: None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.output_topic = output_topic
        self.codecs = codecs
        self.plane = plane
        self.signature = signature
        self.metrics = metrics
        self.shadows = shadows
        self.deadline_ms = deadline_ms
        self.clock_ms = clock_ms

    def submit(self, batch: MessageBatch) -> PendingBatch:
        """Decode a batch and send it to the model.

        Raises
        ------
        RegistryUnavailable
            A writer's schema is not known yet and the registry does not answer.
        ModelUnavailable
            No model serves.
        """
        table = self.plane.current_table()
        state = self._decode(batch, table)
        times = state.vectors.event_time
        state.expired = expired_rows(times, self.clock_ms(), self.deadline_ms())
        if table.canaries:
            state.which = table.split(_taken(batch.keys, state.rows))
        if not len(state.rows) or (state.expired is not None and state.expired.all()):
            return Completed(self.finish(state, None))
        matrix, which = state.vectors.matrix, state.which
        if state.expired is not None:
            matrix = matrix[~state.expired]
            which = None if which is None else which[~state.expired]
        return PendingPredictions(self, state, PendingAnswers(self.plane, table, matrix, which))

    def _decode(self, batch: MessageBatch, table: RouteTable) -> BatchState:
        """Return what a batch holds; rows that the champion cannot take are dead."""
        with self.metrics.stage("decode"):
            decoded = self.codecs.decoder.decode(batch.values)
        columns, rows = decoded.columns, decoded.rows
        width = table.champion.model.width
        matrix, good, errors = feature_matrix(columns.column("features"), width)
        origin = origin_column(batch, rows, columns.column("origin"))
        vectors = Vectors(columns.column("event_id"), columns.column("event_time"), matrix, origin)
        state = BatchState(batch, table, vectors, rows)
        state.dead.extend(decoded.errors)
        if len(decoded.tombstones):
            state.skipped["tombstone"] = len(decoded.tombstones)
        if errors:
            state.note_dead(errors)
            index = pa.array(good)
            state.vectors = Vectors(
                vectors.event_id.take(index),
                vectors.event_time.take(index),
                matrix,  # has the good rows alone already
                origin.take(index),
            )
            state.rows = rows[good]
        return state

    def finish(self, state: BatchState, answers: Answers | None) -> HandledBatch:
        """Return the outcome of every row; None for the answers if no row was asked about."""
        if len(state.rows):
            state.take_answers(answers)
        if not len(state.rows) or state.scores is None:
            return state.handled([])
        by = state.answered_by
        with self.metrics.stage("encode"):
            columns = prediction_columns(
                state.vectors, state.scores, by, self.signature, self.clock_ms(), state.expired
            )
            values = self.codecs.encoder.encode(columns)
        self._count(state, answers, by)
        if self.shadows is not None and state.table.shadows:
            self.shadows.offer_rows(self._answered_rows(state))
        output = OutputColumns(
            topic=self.output_topic,
            keys=_taken(state.batch.keys, state.rows),
            values=values,
            partitions=state.batch.partitions[state.rows],
            rows=state.rows,
        )
        return state.handled([output])

    def _answered_rows(self, state: BatchState) -> ShownRows:
        vectors, rows = state.vectors, state.rows
        if state.expired is not None:
            answered = np.flatnonzero(~state.expired)
            vectors, rows = vectors.keep(answered), rows[answered]
        keys = _taken(state.batch.keys, rows)
        return ShownRows(state.table, vectors, keys, state.batch.partitions[rows])

    def _count(self, state: BatchState, answers: Answers | None, by: AnsweredBy) -> None:
        rows = len(state.rows)
        if state.expired is not None:
            answered = np.flatnonzero(~state.expired)
            self.metrics.expired(rows - len(answered))
            by, rows = by.keep(answered), len(answered)
        for route, count in by.counts(rows):
            self.metrics.predicted(route, count)
        for canary, count in () if answers is None else answers.fallbacks:
            self.metrics.fell_back(canary, count)


class PendingPredictions:
    """A batch that is with the models."""

    def __init__(
        self, handler: InferenceHandler, state: BatchState, pending: PendingAnswers
    ) -> None:
        self._handler = handler
        self._state = state
        self._pending = pending

    def done(self, within_s: float = 0.0) -> bool:
        """Return whether the models have answered, or do in time."""
        return self._pending.done(within_s)

    def result(self, timeout_s: float) -> HandledBatch:
        """Return the outcome of every row; raises what the champion's absence raises."""
        with self._handler.metrics.stage("infer"):
            answers = self._pending.answers(timeout_s)
        return self._handler.finish(self._state, answers)


def expired_rows(event_time: pa.Array, now_ms: int, deadline_ms: int | None) -> Mask | None:
    """Return which events are older than the deadline; None where none is.

    Parameters
    ----------
    event_time
        n timestamps in milliseconds.
    now_ms
        Milliseconds since the epoch, UTC.
    deadline_ms
        Largest age, milliseconds; None switches it off.

    Examples
    --------
    >>> times = pa.array([1_000, 1_900, 5_000], pa.timestamp("ms"))
    >>> expired_rows(times, 2_000, 500).tolist()
    [True, False, False]
    >>> expired_rows(times, 2_000, 1_000) is None
    True
    """
    if deadline_ms is None:
        return None
    # Compared with a bound, not as an age: an age may not fit into 64 bits.
    expired: Mask = event_time.cast(pa.int64()).to_numpy() < now_ms - deadline_ms
    return expired if expired.any() else None


def _taken(column: Sequence[bytes | None], rows: Rows) -> Sequence[bytes | None]:
    """Return some entries of a list; the list itself where that is all of it."""
    if len(rows) == len(column):
        return column
    return [column[row] for row in rows.tolist()]
