"""What stands between the loop and new records after the start, an abort or a rebalance.

A failed transaction is undone in steps that may fail themselves, so they are noted and taken at the
next attempt: a new producer, the handler's and the consumer's way back to what is committed, the
state of new partitions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from penstock_schemas.errors import (
    BrokerUnavailable,
    DeliveryFailed,
    FencedError,
    PenstockError,
    RetryableError,
)

from penstock_streaming.checkpoint import Checkpoint, LoopContext
from penstock_streaming.consumer import InputConsumer
from penstock_streaming.errors import AbortRequired, BreakerTripped, OutcomeUnknown, Verdict
from penstock_streaming.handler import Handler
from penstock_streaming.in_flight import InFlight
from penstock_streaming.producer import FlushingProducer, TransactionalProducer
from penstock_streaming.timing import Budget, Deadline, Outage

logger = logging.getLogger(__name__)

_BUDGET_WINDOW_S = 600.0
_ABORT_BUDGET = 20
_INCURABLE = (Verdict.UNDELIVERABLE, Verdict.CONFIG)


@dataclass(slots=True)
class PendingSteps:
    """Steps that are still to be taken, in this order.

    Attributes
    ----------
    producer
        A new producer must be made.
    rewind
        Partitions whose handler state and consumer position must go back to what is committed.
    begin
        Newly assigned partitions that may have nothing committed yet.
    restore
        Newly assigned partitions whose state the handler has yet to restore.
    """

    producer: bool = True
    rewind: set[int] = field(default_factory=set)
    begin: set[int] = field(default_factory=set)
    restore: set[int] = field(default_factory=set)

    def assigned(self, partitions: Iterable[int]) -> None:
        """Note new partitions."""
        self.begin.update(partitions)
        self.restore.update(partitions)

    def forget(self, partitions: set[int]) -> None:
        """Drop partitions that are no longer ours."""
        for wanted in (self.rewind, self.begin, self.restore):
            wanted -= partitions

    @property
    def is_pending(self) -> bool:
        """Tell whether a step is left."""
        return self.producer or bool(self.rewind or self.begin or self.restore)


@dataclass(frozen=True, slots=True)
class LoopParts:
    """What a recovery acts on."""

    context: LoopContext
    handler: Handler
    consumer: InputConsumer
    producer: TransactionalProducer | FlushingProducer
    checkpoint: Checkpoint
    in_flight: InFlight


class Recovery:
    """Undoes what failed and takes the loop back to work.

    Attributes
    ----------
    steps
        What is still to be done.
    outage
        When the next attempt is.
    """

    def __init__(self, parts: LoopParts) -> None:
        self._parts = parts
        loop = parts.context.loop
        self.steps = PendingSteps()
        self.outage = Outage(loop.retry_max_wait_s)
        self._fenced = Budget(loop.fenced_budget, _BUDGET_WINDOW_S)
        self._aborts = 0
        self._lost = 0
        self._restored: set[int] = set()

    @property
    def is_needed(self) -> bool:
        """Tell whether a step is left or a dependency is away."""
        return self.steps.is_pending or self.outage.is_active

    def take_steps(self) -> None:
        """Take the pending steps; one that fails is taken again next time.

        Raises
        ------
        RetryableError
            If a dependency is away.
        FatalError
            If a step can never succeed.
        """
        steps, parts = self.steps, self._parts
        if not steps.is_pending:
            return
        loop = parts.context.loop
        with parts.context.metrics.timed(parts.context.topic, "restore"):
            if steps.producer:
                parts.producer.open()
                steps.producer = False
            if steps.rewind:
                partitions = sorted(steps.rewind)
                parts.handler.rolled_back(partitions, loop.restore_timeout_s)
                parts.consumer.places.rewind(partitions, Deadline(loop.commit_timeout_s))
                steps.rewind.clear()
            if steps.begin:
                parts.consumer.places.begin(sorted(steps.begin), Deadline(loop.commit_timeout_s))
                steps.begin.clear()
            if steps.restore:
                parts.handler.assigned(sorted(steps.restore), loop.restore_timeout_s)
                self._restored |= steps.restore
                steps.restore.clear()

    def roll_back(self) -> None:
        """Abort what is open, drop what is in flight, and have retained partitions read again."""
        parts = self._parts
        parts.in_flight.clear()
        if parts.checkpoint.is_open and not self.steps.producer:
            try:
                parts.checkpoint.abort()
            except (OutcomeUnknown, FencedError) as exc:
                self.lose_producer(exc)
        parts.checkpoint.drop()
        parts.consumer.gates.hold()
        # A partition that has yet to be restored starts at what is committed anyway.
        self.steps.rewind |= parts.consumer.gates.owned & self._restored

    def give_up(self, partitions: set[int]) -> None:
        """Drop partitions that are no longer ours, the handler's state of them too."""
        self.steps.forget(partitions)
        self._restored -= partitions
        self._parts.checkpoint.forget(partitions)
        self._parts.handler.revoked(sorted(partitions))

    def lose_producer(self, error: PenstockError) -> None:
        """Have a new producer made in place of one whose state nobody knows.

        Raises
        ------
        FencedError
            If the budget for that is spent.
        DeliveryFailed
            If one producer after the other fails so, and not for want of a broker.
        """
        if isinstance(error, FencedError) and not self._fenced.spend():
            raise error
        context = self._parts.context
        self._lost += 1
        is_passing = not isinstance(error, OutcomeUnknown) or error.verdict is Verdict.RETRY
        if self._lost > _ABORT_BUDGET and not is_passing:
            raise DeliveryFailed(f"{self._lost} producers lost in a row: {error}") from error
        logger.warning("%s: new producer: %s", context.topic, error)
        context.metrics.transactions.labels(context.topic, "recreated").inc()
        # At once: what it still has under way must not reach the broker later.
        self._parts.producer.close()
        self.steps.producer = True
        if self._lost > 1:
            self.put_off(BrokerUnavailable(str(error), retry_after_s=0.1))

    def count_abort(self, error: AbortRequired) -> None:
        """Back off from aborts in a row.

        Raises
        ------
        DeliveryFailed
            If no repetition can help.
        """
        logger.warning("%s: aborted: %s", self._parts.context.topic, error)
        if error.verdict in _INCURABLE:
            raise DeliveryFailed(str(error)) from error
        self._aborts += error.verdict is not Verdict.MEMBERSHIP
        if self._aborts > _ABORT_BUDGET:
            raise DeliveryFailed(f"{self._aborts} aborts in a row, the last: {error}") from error
        if self._aborts > 1:
            self.put_off(BrokerUnavailable(str(error), retry_after_s=0.1))

    def close_partition(self, error: BreakerTripped) -> None:
        """Leave a partition at its committed offset until its limits are raised."""
        self._parts.consumer.gates.bar(error.partition)
        logger.error(
            "%s: dead-letter breaker: partition %d stays at its committed offset: offset %d, class "
            "%s, is one of %s. Mend what sends them and restart the service, or raise "
            "limits.max_dead_letters_in_row and limits.max_dead_letter_share in pipeline.yaml",
            self._parts.context.topic,
            error.partition,
            error.offset,
            error.dead_letter_class,
            error.reason,
        )

    def count_commit(self) -> None:
        """Learn that a commit succeeded."""
        self._aborts = self._lost = 0

    def put_off(self, error: RetryableError) -> None:
        """Pause and set the time of the next attempt; the offset is kept, nothing is dropped."""
        context = self._parts.context
        wait_s = self.outage.begin(error)
        self._parts.consumer.gates.hold()
        context.metrics.retries.labels(context.topic, type(error).__name__).inc()
        logger.warning("%s: waiting %.1f s: %s", context.topic, wait_s, error)

    def settle(self) -> None:
        """End an outage once what it held up is done, and let partitions flow."""
        work = self._parts.in_flight
        if self.steps.is_pending or work.has_unsubmitted:
            return
        if self.outage.is_active and not work:
            logger.info("%s: going on", self._parts.context.topic)
            self.outage.end()
        if not self.outage.is_active and not work.is_full:
            self._parts.consumer.gates.release()
