"""From handled batches to a commit: outputs, dead letters, state changes and offsets together.

A handled batch is validated before it is produced: every row ends in exactly one of output, dead
letter, counted skip; and nothing is handed to the producer that no broker would take, since it
would abort every transaction for ever.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from confluent_kafka import TopicPartition
from penstock_schemas.errors import FatalError, Oversize, RecordError
from penstock_schemas.topics import PipelineTopics

from penstock_streaming.consumer import GroupConsumer
from penstock_streaming.dead_letters import DeadLetterBreaker, Failure, dead_letter
from penstock_streaming.errors import BreakerTripped
from penstock_streaming.handler import HandledBatch, Handler, MessageBatch, OutputColumns
from penstock_streaming.in_flight import LoopContext
from penstock_streaming.producer import Producer

REST_SHARE: Final = 0.5
"""Share of the interval that lies between two commits at least, however long a commit takes."""
MAX_AGE_SHARE = 0.7
"""Share of the transaction time-out at which waiting any longer would lose the transaction."""


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
        consumer: GroupConsumer,
        producer: Producer,
    ) -> None:
        self._context = context
        self._handler = handler
        self._consumer = consumer
        self._producer = producer
        self._dead_letter_topic = PipelineTopics.dead_letter(context.topic)
        self.breaker = DeadLetterBreaker(context.loop.breaker_limits)
        self._offsets = OffsetTracker()
        self._begun_at: float | None = None
        self._pace = CommitPace(context.clock())
        self._rows = 0
        self._first_ms: list[int] = []
        self._outcomes: Counter[str] = Counter()
        self._dead_letters: Counter[str] = Counter()

    @property
    def is_open(self) -> bool:
        """Whether a transaction is open."""
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
        """Whether the open transaction is about to be aborted by the broker."""
        if self._begun_at is None:
            return False
        age_s = self._context.clock() - self._begun_at
        return age_s > self._context.loop.transaction_timeout_s * MAX_AGE_SHARE

    def write_batch(self, batch: MessageBatch, handled: HandledBatch) -> None:
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
        self._offsets.track(batch)
        self._rows += len(batch)
        self._first_ms.append(batch.messages[0].timestamp()[1])
        self._count(handled)

    def commit(self, *, is_settled: bool) -> None:
        """Commit in numbered steps.

        Steps 3 and 4 are the producer's.

        Parameters
        ----------
        is_settled
            Whether everything the consumer has returned is in the transaction.
        """
        context = self._context
        began_s = context.clock()
        with context.metrics.timed(context.topic, "commit"):
            # 1. State changes are produced.
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
            # 2. The offsets are the ends of what is in the transaction, stepped over control
            # records if nothing else was fetched.
            partitions = self._offsets.open_ends
            positions = self._consumer.positions(partitions) if is_settled else {}
            self._commit_ends(self._offsets.ends(positions))
        self._pace.committed(began_s, context.clock())

    def step_over_control_records(self) -> None:
        """Commit positions that have moved past control records, so that lag gets to zero.

        Only for a loop with nothing in flight and no transaction open.
        """
        positions = self._consumer.positions(self._offsets.committed)
        ends = self._offsets.behind(positions)
        if ends:
            self._begin()
            self._commit_ends(ends)

    def abort(self) -> None:
        """Abort the open transaction.

        Raises
        ------
        OutcomeUnknown
            If that needs a new producer.
        """
        self._context.metrics.transactions.labels(self._context.topic, "aborted").inc()
        self._producer.abort()

    def clear(self) -> None:
        """Forget the open transaction, however it ended."""
        self._offsets.roll_back()
        self.breaker.roll_back()
        self._reset()

    def forget_partitions(self, partitions: set[int]) -> None:
        """Forget partitions that are no longer ours and have nothing in an open transaction."""
        self._offsets.forget_partitions(partitions)
        self.breaker.forget_partitions(partitions)

    def _begin(self) -> None:
        if self._begun_at is None:
            self._producer.begin()
            self._begun_at = self._context.clock()

    def _commit_ends(self, ends: dict[int, int]) -> None:
        topic = self._context.topic
        # 3. The offsets join the transaction. 4. It is committed.
        self._producer.commit([TopicPartition(topic, p, end) for p, end in ends.items()])
        # 5. Handler and bookkeeping are told.
        self._offsets.commit(ends)
        self.breaker.commit()
        self._consumer.lag.on_committed(ends)
        self._handler.committed()
        self._count_committed()
        self._reset()

    def _reset(self) -> None:
        self._begun_at = None
        self._rows = 0
        self._first_ms.clear()
        self._outcomes.clear()
        self._dead_letters.clear()

    def _check_dead_letters(self, batch: MessageBatch, handled: HandledBatch) -> None:
        trip = self.breaker.count_batch(batch.partitions, [row for row, _ in handled.dead_letters])
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


class OffsetTracker:
    """Ends of the processed and of the committed records of each partition.

    An end is the offset of the next record to read.

    Attributes
    ----------
    open_ends
        Ends of the records in the open transaction.
    committed
        Ends this worker committed since it was assigned the partition.
    """

    def __init__(self) -> None:
        self.open_ends: dict[int, int] = {}
        self.committed: dict[int, int] = {}

    def track(self, batch: MessageBatch) -> None:
        """Count a finished batch into the open transaction."""
        for partition in np.unique(batch.partitions).tolist():
            last = batch.offsets[batch.partitions == partition].max()
            self.open_ends[partition] = max(int(last) + 1, self.open_ends.get(partition, 0))

    def ends(self, positions: Mapping[int, int]) -> dict[int, int]:
        """Return the offsets to commit.

        Parameters
        ----------
        positions
            The consumer's positions, to step over control records; only to be given when all
            it has returned is in the open transaction, else empty.
        """
        return {p: max(end, positions.get(p, end)) for p, end in self.open_ends.items()}

    def behind(self, positions: Mapping[int, int]) -> dict[int, int]:
        """Return the positions that are beyond what is committed, for an idle worker."""
        return {p: positions[p] for p, end in self.committed.items() if positions.get(p, end) > end}

    def commit(self, ends: Mapping[int, int]) -> None:
        """Close the transaction: its ends are committed."""
        self.committed.update(ends)
        self.open_ends.clear()

    def roll_back(self) -> None:
        """Drop the open transaction.

        The consumer's positions mean nothing until each partition has been read and committed
        again, so what is known to be committed is dropped too.
        """
        self.open_ends.clear()
        self.committed.clear()

    def forget_partitions(self, partitions: Iterable[int]) -> None:
        """Drop partitions that are no longer ours."""
        for partition in partitions:
            self.open_ends.pop(partition, None)
            self.committed.pop(partition, None)


class CommitPace:
    """Commits come an interval apart; what arrives after a longer rest is committed at once.

    Counted from commit to commit, not from the first record of a transaction: that one would wait
    for the whole interval though nothing comes with it.

    Parameters
    ----------
    now_s
        Monotonic seconds.

    Examples
    --------
    >>> pace = CommitPace(0.0)
    >>> pace.due_at(0.1)
    0.1
    >>> pace.committed(5.0, 5.01)
    >>> round(pace.due_at(0.1), 2)
    5.1
    >>> pace.committed(6.0, 6.5)
    >>> round(pace.due_at(0.1), 2)
    6.55
    """

    def __init__(self, now_s: float) -> None:
        self._began = self._ended = now_s

    def committed(self, began_s: float, ended_s: float) -> None:
        """Note when a commit began and ended."""
        self._began, self._ended = began_s, ended_s

    def due_at(self, interval_s: float) -> float:
        """Return the earliest time of the next commit."""
        return max(self._began + interval_s, self._ended + interval_s * REST_SHARE)


def check_accounted(batch: MessageBatch, handled: HandledBatch) -> None:
    """Check that every row has one terminal outcome.

    Raises
    ------
    FatalError
        If the numbers do not add up or a dead letter names no row, or a row twice.
    """
    dead = [row for row, _ in handled.dead_letters]
    skipped = sum(handled.skipped.values())
    if handled.terminal + len(dead) + skipped != len(batch):
        raise FatalError(
            f"{len(batch)} rows of {batch.topic} became {handled.terminal} outputs, "
            f"{len(dead)} dead letters and {skipped} skips"
        )
    if dead and (len(set(dead)) != len(dead) or min(dead) < 0 or max(dead) >= len(batch)):
        raise FatalError(f"dead letters of {batch.topic} name a row twice or none: {dead[:20]}")


def without_oversize(handled: HandledBatch, limit_bytes: int) -> HandledBatch:
    """Turn the rows of records that are too large to produce into dead letters.

    All outputs of such a row are dropped, its terminal one among them.

    Raises
    ------
    FatalError
        If the record does not tell its row.
    """
    large: dict[int, tuple[str, int]] = {}
    for columns in handled.outputs:
        if not fits(columns, limit_bytes):
            large.update(_large_rows(columns, limit_bytes))
    if not large:
        return handled
    dead_before = {row for row, _ in handled.dead_letters}
    fresh: list[tuple[int, RecordError]] = [
        (row, _oversize(topic, size, limit_bytes))
        for row, (topic, size) in sorted(large.items())
        if row not in dead_before
    ]
    return replace(
        handled,
        outputs=[_without_rows(columns, large.keys()) for columns in handled.outputs],
        dead_letters=[*handled.dead_letters, *fresh],
        terminal=handled.terminal - len(fresh),
    )


def fits(columns: OutputColumns, limit_bytes: int) -> bool:
    """Whether every record can be produced, by the largest key and the largest value."""
    return _longest(columns.values) + _longest(columns.keys) <= limit_bytes


def _longest(values: Sequence[bytes | None]) -> int:
    try:
        return max(map(len, values), default=0)  # type: ignore[arg-type]
    except TypeError:  # a None among them
        return max((len(value) for value in values if value is not None), default=0)


def _large_rows(columns: OutputColumns, limit_bytes: int) -> dict[int, tuple[str, int]]:
    sizes = [
        len(value or b"") + len(key or b"")
        for value, key in zip(columns.values, columns.keys, strict=True)
    ]
    found = [i for i, size in enumerate(sizes) if size > limit_bytes]
    if found and columns.rows is None:
        raise FatalError(
            f"a record of {sizes[found[0]]} bytes for {columns.topic} is larger than "
            f"{limit_bytes} and does not tell its row"
        )
    rows: Any = columns.rows
    return {int(rows[i]): (columns.topic, sizes[i]) for i in found}


def _oversize(topic: str, size: int, limit_bytes: int) -> Oversize:
    return Oversize(
        f"output for {topic} is too large",
        expected=f"at most {limit_bytes} bytes",
        got=f"{size} bytes",
        stage="produce",
    )


def _without_rows(columns: OutputColumns, rows: Any) -> OutputColumns:
    if columns.rows is None:
        return columns
    kept = [i for i, row in enumerate(columns.rows) if int(row) not in rows]

    return OutputColumns(
        topic=columns.topic,
        keys=[columns.keys[i] for i in kept],
        values=[columns.values[i] for i in kept],
        partitions=[int(columns.partitions[i]) for i in kept],
        rows=[int(columns.rows[i]) for i in kept],
    )
