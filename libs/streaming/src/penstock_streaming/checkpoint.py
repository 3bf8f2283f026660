"""From handled batches to a commit: outputs, dead letters, state changes and offsets together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import TopicPartition
from penstock_schemas.errors import FatalError
from penstock_schemas.topics import PipelineTopics

from penstock_streaming.commit_pace import CommitPace
from penstock_streaming.consumer import InputConsumer
from penstock_streaming.dead_letter import Failure, dead_letter
from penstock_streaming.dead_letter_breaker import DeadLetterBreaker
from penstock_streaming.errors import BreakerTripped
from penstock_streaming.fail_points import FailPoints
from penstock_streaming.flushing_producer import FlushingProducer
from penstock_streaming.handler import HandledBatch, Handler, MessageBatch
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.outcome import check_accounted, fits, without_oversize
from penstock_streaming.progress import Progress
from penstock_streaming.settings import LoopSettings
from penstock_streaming.transactional_producer import TransactionalProducer

MAX_AGE_SHARE = 0.7
"""Share of the transaction time-out at which waiting any longer would lose the transaction."""


@dataclass(slots=True)
class LoopContext:
    """What all parts of one loop know; only ``loop`` changes, between two turns."""

    topic: str
    service: str
    loop: LoopSettings
    metrics: LoopMetrics
    fail_points: FailPoints
    clock: Callable[[], float] = time.monotonic


class Checkpoint:
    """The open transaction of a loop, begun by the first batch that is written.

    Parameters
    ----------
    context
        Of the loop.
    handler
        Whose state changes go into the transaction.
    consumer, producer
        The two ends.

    Attributes
    ----------
    breaker
        Keeps a partition whose every record fails from being drained into the dead letters.
    """

    def __init__(
        self,
        context: LoopContext,
        handler: Handler,
        consumer: InputConsumer,
        producer: TransactionalProducer | FlushingProducer,
    ) -> None:
        self._context = context
        self._handler = handler
        self._consumer = consumer
        self._producer = producer
        self._dead_letter_topic = PipelineTopics.dead_letter(context.topic)
        self.breaker = DeadLetterBreaker(context.loop.breaker_limits)
        self._progress = Progress()
        self._begun_at: float | None = None
        self._pace = CommitPace(context.clock())
        self._rows = 0
        self._first_ms: list[int] = []
        self._outcomes: Counter[str] = Counter()
        self._dead_letters: Counter[str] = Counter()

    @property
    def is_open(self) -> bool:
        """Tell whether a transaction is open."""
        return self._begun_at is not None

    @property
    def due_in_s(self) -> float:
        """Seconds until the open transaction should be committed, not above zero when due."""
        loop = self._context.loop
        if self._begun_at is None:
            return loop.idle_poll_s
        if self._rows >= loop.max_transaction_rows:
            return 0.0
        return self._pace.due_at(loop.commit_interval_s) - self._context.clock()

    @property
    def is_too_old(self) -> bool:
        """Tell whether the open transaction is about to be aborted by the broker."""
        if self._begun_at is None:
            return False
        age_s = self._context.clock() - self._begun_at
        return age_s > self._context.loop.transaction_timeout_s * MAX_AGE_SHARE

    def write(self, batch: MessageBatch, handled: HandledBatch) -> None:
        """Produce a batch's outputs and dead letters and count its offsets in.

        Raises
        ------
        BreakerTripped
            If a partition leaves too many dead letters; nothing of the batch is produced.
        """
        context = self._context
        check_accounted(batch, handled)
        handled = without_oversize(handled, context.loop.max_output_bytes)
        self._check_dead_letters(batch, handled)
        self._begin()
        with context.metrics.timed(context.topic, "produce"):
            for columns in handled.outputs:
                self._producer.produce(columns)
            if handled.dead_letters:
                self._write_dead_letters(batch, handled)
        self._progress.add(batch)
        self._rows += len(batch)
        self._first_ms.append(batch.messages[0].timestamp()[1])
        self._count(handled)

    def commit(self, *, is_settled: bool) -> None:
        """Commit in numbered steps.

        1. State changes are produced. 2. The offsets are the ends of what is in the transaction,
        stepped over control records if nothing else was fetched. 3. They join the transaction.
        4. It is committed (3 and 4 are the producer's). 5. Handler and bookkeeping learn of it.

        Parameters
        ----------
        is_settled
            Whether everything the consumer has returned is in the transaction.
        """
        context = self._context
        began_s = context.clock()
        context.fail_points.reach("before_offsets")
        with context.metrics.timed(context.topic, "commit"):
            changes = self._handler.changelog()
            for columns in changes:
                if not fits(columns, context.loop.max_output_bytes):
                    raise FatalError(f"a state change for {columns.topic} is too large to produce")
                self._producer.produce(columns)
            if changes:
                # A successor restores up to the end that the changelog has when the group gives it
                # the partitions. Offsets the group took from us before that may still be committed,
                # so the changes they belong to must lie in the log before the offsets are sent.
                self._producer.settle()
            partitions = self._progress.open_ends
            positions = self._consumer.places.reached(partitions) if is_settled else {}
            self._finish(self._progress.ends(positions))
        self._pace.committed(began_s, context.clock())
        context.fail_points.reach("after_commit")

    def step_over(self) -> None:
        """Commit positions that have moved past control records, so that lag gets to zero.

        Only for a loop with nothing in flight and no transaction open.
        """
        positions = self._consumer.places.reached(self._progress.committed)
        ends = self._progress.behind(positions)
        if ends:
            self._begin()
            self._finish(ends)

    def abort(self) -> None:
        """Abort the open transaction.

        Raises
        ------
        OutcomeUnknown
            If that needs a new producer.
        """
        self._context.metrics.transactions.labels(self._context.topic, "aborted").inc()
        self._producer.abort()

    def drop(self) -> None:
        """Forget the open transaction, however it ended."""
        self._progress.roll_back()
        self.breaker.roll_back()
        self._close()

    def forget(self, partitions: set[int]) -> None:
        """Forget partitions that are no longer ours and have nothing in an open transaction."""
        self._progress.forget(partitions)
        self.breaker.forget(partitions)

    def _begin(self) -> None:
        if self._begun_at is None:
            self._producer.begin()
            self._begun_at = self._context.clock()

    def _finish(self, ends: dict[int, int]) -> None:
        topic = self._context.topic
        self._producer.commit([TopicPartition(topic, p, end) for p, end in ends.items()])
        self._progress.commit(ends)
        self.breaker.commit()
        self._consumer.lag.on_committed(ends)
        self._handler.committed()
        self._count_committed()
        self._close()

    def _close(self) -> None:
        self._begun_at = None
        self._rows = 0
        self._first_ms.clear()
        self._outcomes.clear()
        self._dead_letters.clear()

    def _check_dead_letters(self, batch: MessageBatch, handled: HandledBatch) -> None:
        trip = self.breaker.add(batch.partitions, [row for row, _ in handled.dead_letters])
        if trip is not None:
            found = dict(handled.dead_letters)[trip.row].dead_letter_class
            offset = int(batch.offsets[trip.row])
            raise BreakerTripped(trip.partition, offset, found, str(trip))

    def _write_dead_letters(self, batch: MessageBatch, handled: HandledBatch) -> None:
        now_ms = time.time_ns() // 1_000_000
        for row, error in handled.dead_letters:
            failure = Failure(error, self._context.service, handled.origins.get(row), now_ms)
            letter = dead_letter(batch.messages[row], failure)
            self._producer.produce_dead_letter(self._dead_letter_topic, letter)

    def _count(self, handled: HandledBatch) -> None:
        """Note outcomes; they count when they are committed, so that counters equal the log."""
        self._outcomes["output"] += handled.terminal
        self._outcomes.update(handled.skipped)
        self._outcomes["dead_letter"] += len(handled.dead_letters)
        self._dead_letters.update(error.dead_letter_class for _, error in handled.dead_letters)

    def _count_committed(self) -> None:
        metrics, topic = self._context.metrics, self._context.topic
        metrics.transactions.labels(topic, "committed").inc()
        for outcome, rows in self._outcomes.items():
            if rows:
                metrics.records.labels(topic, outcome).inc(rows)
        for dead_letter_class, rows in self._dead_letters.items():
            metrics.dead_letters.labels(topic, dead_letter_class).inc(rows)
        now_s = time.time_ns() / 1e9
        latency = metrics.latency.labels(topic)
        for first_ms in self._first_ms:
            latency.observe(max(0.0, now_s - first_ms / 1000))
