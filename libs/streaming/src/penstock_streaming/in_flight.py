"""Batches that were read and are not yet produced, finished in the order they were read."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from confluent_kafka import Message
from penstock_schemas.errors import ModelUnavailable, RetryableError

from penstock_streaming.handler import (
    Completed,
    HandledBatch,
    Handler,
    MessageBatch,
    PendingBatch,
)
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.poison import FlightJournal, Part, Suspects, ranges_of
from penstock_streaming.settings import LoopSettings

_LEAST_WAIT_S = 0.0005
"""Wait for a batch that is away even where a commit is due, which may need its end."""


@dataclass(slots=True)
class LoopContext:
    """What all parts of one loop know; only ``loop`` changes, between two turns."""

    topic: str
    service: str
    loop: LoopSettings
    metrics: LoopMetrics
    clock: Callable[[], float] = time.monotonic


def batch_of(topic: str, messages: Sequence[Message]) -> MessageBatch:
    """Return messages as columns."""
    n = len(messages)
    return MessageBatch(
        topic=topic,
        messages=messages,
        values=list(map(Message.value, messages)),
        keys=list(map(Message.key, messages)),
        partitions=np.fromiter(map(Message.partition, messages), np.int32, n),
        offsets=np.fromiter(map(Message.offset, messages), np.int64, n),
    )


@dataclass(slots=True)
class _Work:
    """One batch; without a pending result it is still, or again, to be submitted."""

    batch: MessageBatch
    part: Part
    pending: PendingBatch | None = None
    submitted_at: float = 0.0

    @property
    def is_alone(self) -> bool:
        """Whether nothing else may be with the handler."""
        return self.part.deaths > 0


class InFlight:
    """The batches between the consumer and the checkpoint.

    Parameters
    ----------
    context
        Of the loop.
    handler
        Takes the batches.
    """

    def __init__(self, context: LoopContext, handler: Handler) -> None:
        self._context = context
        self._handler = handler
        self._work: deque[_Work] = deque()
        self._suspects = Suspects()
        folder = context.loop.journal_dir
        self._journal = FlightJournal(folder, context.topic) if folder else None

    def __len__(self) -> int:
        return len(self._work)

    @property
    def is_full(self) -> bool:
        """Whether no more may be read.

        Only full batches overlap: what comes while a smaller one is away makes the next one larger,
        where a batch for every few records would cost a call and two requests each.
        """
        if not self._work:
            return False
        loop = self._context.loop
        is_behind = len(self._work[-1].batch) >= loop.max_batch_rows
        return len(self._work) >= (loop.max_in_flight if is_behind else 1)

    @property
    def has_submitted(self) -> bool:
        """Whether the handler has a batch that is not finished."""
        return any(work.pending is not None for work in self._work)

    @property
    def has_unsubmitted(self) -> bool:
        """Whether a batch is to be submitted, for the first time or again."""
        return any(work.pending is None for work in self._work)

    @property
    def is_stalled(self) -> bool:
        """Whether the oldest batch takes so long that the partitions should be paused."""
        if not self._work:
            return False
        head = self._work[0]
        if head.pending is None or head.pending.done():
            return False
        return self._context.clock() - head.submitted_at > self._context.loop.stall_s

    def enqueue(self, messages: Sequence[Message]) -> None:
        """Make batches of what was read, to be submitted."""
        context = self._context
        closed = context.metrics.batches_closed
        reason = "full" if len(messages) >= context.loop.max_batch_rows else "drained"
        with context.metrics.timed(context.topic, "columns"):
            for part in self._suspects.parts(messages):
                self._work.append(_Work(batch_of(context.topic, part.messages), part))
                closed.labels(context.topic, "suspect" if part.deaths else reason).inc()

    def submit_waiting(self) -> None:
        """Submit, in order, what is not with the handler.

        Raises
        ------
        RetryableError
            If the handler cannot take it now.
        """
        for work in self._work:
            if work.is_alone and work is not self._work[0]:
                return
            if work.pending is None:
                self._submit_one(work)
            if work.is_alone:
                return

    def finished(self) -> Iterator[tuple[MessageBatch, HandledBatch]]:
        """Return the results that are there, oldest first, until one is not.

        A batch is removed when the next one is asked for: one that could not be produced stays.

        Raises
        ------
        RetryableError
            If the oldest has failed for now; it is to be submitted again.
        """
        while self._work:
            work = self._work[0]
            if work.pending is None:
                return
            try:
                if not work.pending.done():
                    self._check_age(work)
                    return
                handled = work.pending.result(self._context.loop.result_timeout_s)
            except RetryableError:
                work.pending = None
                raise
            yield work.batch, handled
            self._work.popleft()

    def wait_for_oldest(self, limit_s: float) -> None:
        """Wait for the result of the oldest batch, a moment at least."""
        head = self._work[0].pending if self._work else None
        if head is not None:
            head.done(max(limit_s, _LEAST_WAIT_S))

    def load_suspects(self) -> None:
        """Read what workers that were killed had in flight: partitions of theirs may come now."""
        if self._journal is not None:
            self._suspects.suspect(self._journal.inherited())

    def close(self) -> None:
        """Discard all; the process ends by itself, so nothing that was in flight is suspect."""
        self.discard()
        if self._journal is not None:
            self._journal.close()

    def discard(self) -> None:
        """Discard all; results that still come are ignored."""
        self._work.clear()

    def _submit_one(self, work: _Work) -> None:
        context, rows = self._context, len(work.batch)
        if self._journal is not None:
            flying = (w for w in self._work if w.pending is not None or w is work)
            self._journal.record(r for w in flying for r in ranges_of(w.batch, w.part.deaths))
        with context.metrics.timed(context.topic, "submit"):
            work.pending = self._given_up(work) or self._handler.submit(work.batch)
        work.submitted_at = context.clock()
        context.metrics.batch_rows.labels(context.topic).observe(rows)
        context.metrics.batch_fill.labels(context.topic).observe(rows / context.loop.max_batch_rows)

    @staticmethod
    def _given_up(work: _Work) -> Completed | None:
        """Return the outcome of a record that has killed too many workers."""
        if not work.part.is_poison:
            return None
        return Completed(HandledBatch([], [(0, work.part.error())]))

    def _check_age(self, work: _Work) -> None:
        limit_s = self._context.loop.result_timeout_s
        if self._context.clock() - work.submitted_at > limit_s:
            raise ModelUnavailable(
                f"{len(work.batch)} rows of {work.batch.topic} have no answer after {limit_s} s"
            )
