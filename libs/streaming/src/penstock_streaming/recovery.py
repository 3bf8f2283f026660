"""What stands between the loop and new records after the start, an abort or a rebalance.

A failed transaction is undone in steps that may fail themselves, so they are noted and taken at the
next attempt: a new producer, the handler's and the consumer's way back to what is committed, the
state of new partitions. Budgets end what no repetition can cure.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from penstock_schemas.errors import (
    BrokerUnavailable,
    DeliveryFailed,
    FencedError,
    PenstockError,
    RetryableError,
)

from penstock_streaming.checkpoint import Checkpoint
from penstock_streaming.consumer import GroupConsumer
from penstock_streaming.errors import AbortRequired, BreakerTripped, ErrorCategory, OutcomeUnknown
from penstock_streaming.handler import Handler
from penstock_streaming.in_flight import InFlight, LoopContext
from penstock_streaming.producer import Producer
from penstock_streaming.timing import Budget, Deadline, Outage

logger = logging.getLogger(__name__)

_BUDGET_WINDOW_S = 600.0
_ABORT_BUDGET = 20
_INCURABLE = (ErrorCategory.UNDELIVERABLE, ErrorCategory.CONFIG)


class Recovery:
    """Undoes what failed and takes the loop back to work.

    Parameters
    ----------
    context
        Of the loop.
    handler, consumer, producer, checkpoint, in_flight
        What it rolls back and restores.

    Attributes
    ----------
    outage
        When the next attempt is.
    needs_producer
        Whether a new producer must be made.
    rewinding
        Partitions whose handler state and consumer position must go back to what is committed.
    """

    def __init__(
        self,
        context: LoopContext,
        handler: Handler,
        *,
        consumer: GroupConsumer,
        producer: Producer,
        checkpoint: Checkpoint,
        in_flight: InFlight,
    ) -> None:
        self._context = context
        self._handler = handler
        self._consumer = consumer
        self._producer = producer
        self._checkpoint = checkpoint
        self._in_flight = in_flight
        self.outage = Outage(context.loop.retry_max_wait_s)
        self.needs_producer = True
        self.rewinding: set[int] = set()
        self._beginning: set[int] = set()
        """Newly assigned partitions that may have nothing committed yet."""
        self._restoring: set[int] = set()
        """Newly assigned partitions whose state the handler has yet to restore."""
        self._restored: set[int] = set()
        self._fenced = Budget(context.loop.fenced_budget, _BUDGET_WINDOW_S)
        self._aborts_in_row = 0
        self._producers_lost_in_row = 0

    @property
    def has_steps(self) -> bool:
        """Whether a step is left."""
        return self.needs_producer or bool(self.rewinding or self._beginning or self._restoring)

    @property
    def is_needed(self) -> bool:
        """Whether a step is left or a dependency is away."""
        return self.has_steps or self.outage.is_active

    def take_steps(self) -> None:
        """Take the steps that are left, in this order; one that fails is taken again next time.

        Raises
        ------
        RetryableError
            If a dependency is away.
        FatalError
            If a step can never succeed.
        """
        if not self.has_steps:
            return
        context, loop = self._context, self._context.loop
        with context.metrics.timed(context.topic, "restore"):
            if self.needs_producer:
                self._producer.open()
                self.needs_producer = False
            if self.rewinding:
                partitions = sorted(self.rewinding)
                self._handler.rolled_back(partitions, loop.restore_timeout_s)
                self._consumer.rewind(partitions, Deadline(loop.commit_timeout_s))
                self.rewinding.clear()
            if self._beginning:
                deadline = Deadline(loop.commit_timeout_s)
                self._consumer.start_uncommitted(sorted(self._beginning), deadline)
                self._beginning.clear()
            if self._restoring:
                self._handler.assigned(sorted(self._restoring), loop.restore_timeout_s)
                self._restored |= self._restoring
                self._restoring.clear()

    def take_over_partitions(self, partitions: Iterable[int]) -> None:
        """Note the steps for newly assigned partitions."""
        self._in_flight.load_suspects()
        self._beginning.update(partitions)
        self._restoring.update(partitions)

    def give_up_partitions(self, partitions: set[int]) -> None:
        """Drop partitions that are no longer ours, the handler's state of them too."""
        for steps in (self.rewinding, self._beginning, self._restoring, self._restored):
            steps -= partitions
        self._checkpoint.forget_partitions(partitions)
        self._handler.revoked(sorted(partitions))

    def roll_back(self) -> None:
        """Abort what is open, discard what is in flight, have retained partitions read again."""
        self._in_flight.discard()
        if self._checkpoint.is_open and not self.needs_producer:
            try:
                self._checkpoint.abort()
            except (OutcomeUnknown, FencedError) as exc:
                self.lose_producer(exc)
        self._checkpoint.clear()
        self._consumer.pause_all()
        # A partition that has yet to be restored starts at what is committed anyway.
        self.rewinding |= self._consumer.owned & self._restored

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
        context = self._context
        self._producers_lost_in_row += 1
        lost = self._producers_lost_in_row
        is_passing = not isinstance(error, OutcomeUnknown) or error.category is ErrorCategory.RETRY
        if lost > _ABORT_BUDGET and not is_passing:
            raise DeliveryFailed(f"{lost} producers lost in a row: {error}") from error
        logger.warning("%s: new producer: %s", context.topic, error)
        context.metrics.transactions.labels(context.topic, "recreated").inc()
        # At once: what it still has under way must not reach the broker later.
        self._producer.close()
        self.needs_producer = True
        if lost > 1:
            self.wait_and_retry(BrokerUnavailable(str(error), retry_after_s=0.1))

    def count_abort(self, error: AbortRequired) -> None:
        """Back off from aborts in a row.

        Raises
        ------
        DeliveryFailed
            If no repetition can help.
        """
        logger.warning("%s: aborted: %s", self._context.topic, error)
        if error.category in _INCURABLE:
            raise DeliveryFailed(str(error)) from error
        self._aborts_in_row += error.category is not ErrorCategory.MEMBERSHIP
        aborts = self._aborts_in_row
        if aborts > _ABORT_BUDGET:
            raise DeliveryFailed(f"{aborts} aborts in a row, the last: {error}") from error
        if aborts > 1:
            self.wait_and_retry(BrokerUnavailable(str(error), retry_after_s=0.1))

    def block_partition(self, error: BreakerTripped) -> None:
        """Leave a partition at its committed offset until its limits are raised."""
        self._consumer.block(error.partition)
        logger.error(
            "%s: dead-letter breaker: partition %d stays at its committed offset: offset %d, class "
            "%s, is one of %s. Mend what sends them and restart the service, or raise "
            "limits.max_dead_letters_in_row and limits.max_dead_letter_share in pipeline.yaml",
            self._context.topic,
            error.partition,
            error.offset,
            error.dead_letter_class,
            error.reason,
        )

    def count_commit(self) -> None:
        """End the rows of aborts and of lost producers: a commit succeeded."""
        self._aborts_in_row = self._producers_lost_in_row = 0

    def wait_and_retry(self, error: RetryableError) -> None:
        """Pause and set the time of the next attempt; the offset is kept, nothing is dropped."""
        context = self._context
        wait_s = self.outage.begin(error)
        self._consumer.pause_all()
        context.metrics.retries.labels(context.topic, type(error).__name__).inc()
        logger.warning("%s: waiting %.1f s: %s", context.topic, wait_s, error)

    def resume_if_recovered(self) -> None:
        """End an outage once what it held up is done, and resume the partitions."""
        if self.has_steps or self._in_flight.has_unsubmitted:
            return
        if self.outage.is_active and not self._in_flight:
            logger.info("%s: going on", self._context.topic)
            self.outage.end()
        if not self.outage.is_active and not self._in_flight.is_full:
            self._consumer.resume_all()
