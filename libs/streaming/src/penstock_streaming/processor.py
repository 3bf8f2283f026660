"""The loop: poll, hand over, finish in order, commit. One thread, one topic, one group member.

Here the class of an error becomes an action: a RecordError is a dead letter, a RetryableError
pauses the partitions and is tried again, whatever else is fatal and stops without committing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

from confluent_kafka import Message
from penstock_schemas.errors import (
    BrokerUnavailable,
    DeliveryFailed,
    FatalError,
    FencedError,
    ModelUnavailable,
    PenstockError,
    RetryableError,
)

from penstock_streaming.checkpoint import Checkpoint, LoopContext
from penstock_streaming.clients import Clients, ConfluentClients
from penstock_streaming.consumer import InputConsumer, Rebalance, batch_of
from penstock_streaming.deadline import Deadline
from penstock_streaming.errors import AbortRequired, OutcomeUnknown, Verdict
from penstock_streaming.fail_points import FailPoints
from penstock_streaming.handler import Handler, MessageBatch, PendingBatch, StatelessHandler
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.producer import FlushingProducer, TransactionalProducer
from penstock_streaming.recovery import Budget, Outage, Recovery
from penstock_streaming.settings import KafkaSettings, LoopSettings

logger = logging.getLogger(__name__)

_NAP_S = 0.0005
_IN_FLIGHT_POLL_S = 0.001
_HEAD_WAIT_S = 0.02
_HOUSEKEEPING_S = 1.0
_BUDGET_WINDOW_S = 600.0
_ABORT_BUDGET = 20
_INCURABLE = (Verdict.UNDELIVERABLE, Verdict.CONFIG)


@dataclass(slots=True)
class _Work:
    """A batch that was read and is not yet produced; no pending result means: to be submitted."""

    batch: MessageBatch
    pending: PendingBatch | None = None
    submitted_at: float = 0.0


class Processor:
    """Runs a handler on an input topic, exactly once or at least once.

    Parameters
    ----------
    kafka
        The cluster.
    group_id
        Consumer group.
    input_topic
        Topic to read; dead letters go to its dead-letter topic.
    handler
        The work. A `StatelessHandler` may have batches in flight over a commit; for any other the
        loop commits only when all that was submitted is finished.
    service
        Name written into dead letters.
    transactional_id
        Of this incarnation alone; every re-creation of the producer uses it again.
    loop
        Sizes and times.
    metrics
        Shared by the loops of a process.
    clients
        Makes the Kafka clients; a test gives fakes.
    """

    def __init__(
        self,
        *,
        kafka: KafkaSettings,
        group_id: str,
        input_topic: str,
        handler: Handler,
        service: str,
        transactional_id: str,
        loop: LoopSettings,
        metrics: LoopMetrics,
        clients: Clients | None = None,
    ) -> None:
        clients = clients or ConfluentClients()
        self._handler = handler
        self._is_stateless = isinstance(handler, StatelessHandler)
        self._loop = loop
        self._context = LoopContext(
            input_topic, service, loop, metrics, FailPoints.from_environment()
        )
        self._consumer = InputConsumer(clients, kafka.consumer_config(group_id, loop), input_topic)
        exactly_once = loop.delivery == "exactly_once"
        config = kafka.producer_config(loop, transactional_id if exactly_once else None)
        kind = TransactionalProducer if exactly_once else FlushingProducer
        self._producer: TransactionalProducer | FlushingProducer = kind(
            lambda added: clients.producer({**config, **added}),
            self._consumer,
            loop,
            self._context.fail_points,
        )
        self._checkpoint = Checkpoint(self._context, handler, self._consumer, self._producer)
        self._work: deque[_Work] = deque()
        self._recovery = Recovery()
        self._outage = Outage(loop.retry_max_wait_s)
        self._fenced = Budget(loop.fenced_budget, _BUDGET_WINDOW_S)
        self._aborts = 0
        self._stop = threading.Event()
        self._beat = time.monotonic()
        self._next_housekeeping = 0.0

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the loop last turned; a handler's restore is one turn."""
        return time.monotonic() - self._beat

    @property
    def ready(self) -> bool:
        """Tell whether the assignment is known and no outage holds it up."""
        waits = self._recovery.is_pending or self._outage.is_active
        return self._consumer.has_joined and not waits and not self._stop.is_set()

    @property
    def assigned(self) -> frozenset[int]:
        """Partitions of this member."""
        return frozenset(self._consumer.owned)

    @property
    def lag(self) -> dict[int, int]:
        """Records behind the last stable offset, per partition whose end is known."""
        return self._consumer.lag.lag(sorted(self._consumer.owned))

    def stop(self) -> None:
        """Ask the loop to end: it finishes what is in flight, commits and leaves the group."""
        self._stop.set()

    def run(self) -> None:
        """Consume until `stop`.

        Raises
        ------
        FatalError
            If going on would be wrong. Nothing that was open is committed.
        """
        self._consumer.subscribe()
        try:
            while not self._stop.is_set():
                self._guarded_turn()
            self._drain()
        except PenstockError as exc:
            raise exc if isinstance(exc, FatalError) else FatalError(str(exc)) from exc
        except Exception as exc:
            raise FatalError(f"unexpected {type(exc).__name__}: {exc}") from exc
        finally:
            self._close()

    def _guarded_turn(self) -> None:
        """Turn once; the one place where an error's class becomes an action."""
        try:
            self._turn()
        except RetryableError as exc:
            self._put_off(exc)
        except AbortRequired as exc:
            self._roll_back()
            self._count_abort(exc)
        except (OutcomeUnknown, FencedError) as exc:
            self._lose_producer(exc)
            self._roll_back()

    def _turn(self) -> None:
        self._beat = time.monotonic()
        messages = self._serve_rebalances(self._fetch())
        if messages and not self._recovery.rewind:
            with self._context.metrics.timed(self._context.topic, "fetch"):
                self._work.append(_Work(batch_of(self._context.topic, messages)))
            self._context.fail_points.reach("after_poll")
        if self._outage.remaining_s <= 0.0:
            self._recover()
            self._submit()
        self._finish()
        self._commit_if_due()
        self._settle()
        if self._beat >= self._next_housekeeping:
            self._keep_house()

    # Reading

    def _fetch(self) -> list[Message]:
        """Poll for as long as there is nothing better to do."""
        if len(self._work) < self._loop.max_in_flight or self._consumer.held:
            return self._consumer.fetch(self._loop.max_batch_rows, self._poll_s())
        self._await_head(_HEAD_WAIT_S)
        head = self._work[0]
        if head.pending is not None and not head.pending.done():
            if self._beat - head.submitted_at > self._loop.stall_s:
                # The group must go on being served, and only a paused consumer can be polled
                # without taking more records.
                self._consumer.hold()
        return []

    def _poll_s(self) -> float:
        if any(work.pending is not None for work in self._work):
            return _IN_FLIGHT_POLL_S
        wait_s = min(self._loop.idle_poll_s, max(0.0, self._checkpoint.due_in_s))
        return min(wait_s, self._outage.remaining_s) if self._outage.is_active else wait_s

    def _await_head(self, limit_s: float) -> None:
        """Wait a moment for the oldest batch."""
        deadline = Deadline(min(limit_s, max(_NAP_S, self._checkpoint.due_in_s)))
        head = self._work[0].pending
        while head is not None and not head.done() and not deadline.expired:
            time.sleep(_NAP_S)

    def _serve_rebalances(self, messages: list[Message]) -> list[Message]:
        """Do what callbacks inside the last fetch have noted; return what is still ours."""
        for event in self._consumer.take_events():
            self._context.metrics.rebalances.labels(self._context.topic, event.kind).inc()
            logger.info("%s: %s %s", self._context.topic, event.kind, event.partitions)
            if event.kind == "assigned":
                self._recovery.restore.update(event.partitions)
            else:
                messages = self._give_up(event, messages)
        return messages

    def _give_up(self, event: Rebalance, messages: list[Message]) -> list[Message]:
        gone = set(event.partitions)
        if not gone:
            return messages
        if self._work or self._checkpoint.is_open:
            messages = []
            try:
                self._roll_back()
            finally:
                self._forget(gone)
            return messages
        self._forget(gone)
        return [m for m in messages if m.partition() not in gone]

    def _forget(self, gone: set[int]) -> None:
        self._checkpoint.forget(gone)
        self._recovery.forget(gone)
        self._handler.revoked(sorted(gone))

    # Working

    def _submit(self) -> None:
        """Hand over what was read and not yet handed over, in order."""
        for work in self._work:
            if work.pending is not None:
                continue
            with self._context.metrics.timed(self._context.topic, "submit"):
                work.pending = self._handler.submit(work.batch)
            work.submitted_at = time.monotonic()
            self._observe_batch(len(work.batch))
            self._context.fail_points.reach("after_submit")

    def _finish(self) -> None:
        """Write the results that are there, oldest first."""
        while self._work:
            work = self._work[0]
            if work.pending is None:
                return
            try:
                if not work.pending.done():
                    self._check_patience(work)
                    return
                handled = work.pending.result(self._loop.result_timeout_s)
            except RetryableError:
                work.pending = None
                if not self._is_stateless:
                    self._roll_back()
                raise
            self._checkpoint.write(work.batch, handled)
            self._work.popleft()

    def _check_patience(self, work: _Work) -> None:
        if time.monotonic() - work.submitted_at > self._loop.result_timeout_s:
            raise ModelUnavailable(
                f"a batch of {len(work.batch)} rows of {work.batch.topic} has no answer after "
                f"{self._loop.result_timeout_s} s"
            )

    def _commit_if_due(self) -> None:
        checkpoint = self._checkpoint
        if not checkpoint.is_open or checkpoint.due_in_s > 0.0:
            return
        if self._is_stateless or not any(work.pending is not None for work in self._work):
            checkpoint.commit(is_settled=not self._work)
            self._aborts = 0
        elif checkpoint.is_too_old:
            raise AbortRequired("batches in flight outlive the transaction")

    def _settle(self) -> None:
        """End an outage once what it held up is done, and let partitions flow."""
        if self._recovery.is_pending or any(work.pending is None for work in self._work):
            return
        if self._outage.is_active and not self._work:
            logger.info(
                "%s: going on after %d attempts", self._context.topic, self._outage.attempts
            )
            self._outage.end()
        if not self._outage.is_active and len(self._work) < self._loop.max_in_flight:
            self._consumer.release()

    # Failing and recovering

    def _recover(self) -> None:
        """Take the steps that stand between an abort, a rebalance or the start and new records."""
        recovery = self._recovery
        if not recovery.is_pending:
            return
        if recovery.producer:
            self._producer.open()
            recovery.producer = False
        timeout_s = self._loop.restore_timeout_s
        with self._context.metrics.timed(self._context.topic, "restore"):
            if recovery.rewind:
                partitions = sorted(recovery.rewind)
                self._handler.rolled_back(partitions, timeout_s)
                self._consumer.rewind(partitions, Deadline(self._loop.commit_timeout_s))
                recovery.rewind.clear()
            if recovery.restore:
                self._handler.assigned(sorted(recovery.restore), timeout_s)
                recovery.restore.clear()

    def _roll_back(self) -> None:
        """Abort what is open, drop what is in flight, and have retained partitions read again."""
        self._work.clear()
        if self._checkpoint.is_open and not self._recovery.producer:
            try:
                self._checkpoint.abort()
            except (OutcomeUnknown, FencedError) as exc:
                self._lose_producer(exc)
        self._checkpoint.drop()
        self._consumer.hold()
        self._recovery.rewind |= self._consumer.owned - self._recovery.restore

    def _lose_producer(self, error: PenstockError) -> None:
        if isinstance(error, FencedError) and not self._fenced.spend():
            raise error
        logger.warning("%s: new producer: %s", self._context.topic, error)
        self._context.metrics.transactions.labels(self._context.topic, "recreated").inc()
        self._recovery.producer = True

    def _count_abort(self, error: AbortRequired) -> None:
        """Back off from aborts in a row; stop where no repetition can help."""
        logger.warning("%s: aborted: %s", self._context.topic, error)
        if error.verdict in _INCURABLE:
            raise DeliveryFailed(str(error)) from error
        self._aborts += error.verdict is not Verdict.MEMBERSHIP
        if self._aborts > _ABORT_BUDGET:
            raise DeliveryFailed(f"{self._aborts} aborts in a row, the last: {error}") from error
        if self._aborts > 1:
            self._put_off(BrokerUnavailable(str(error), retry_after_s=0.1))

    def _put_off(self, error: RetryableError) -> None:
        """Pause and set the time of the next attempt; the offset is kept, nothing is dropped."""
        wait_s = self._outage.begin(error)
        self._consumer.hold()
        self._context.metrics.retries.labels(self._context.topic, type(error).__name__).inc()
        logger.warning("%s: waiting %.1f s: %s", self._context.topic, wait_s, error)

    # Ending

    def _drain(self) -> None:
        """Finish what is in flight and commit, within one deadline."""
        deadline = Deadline(self._loop.drain_timeout_s)
        try:
            while self._work and not self._outage.is_active and not deadline.expired:
                self._beat = time.monotonic()
                self._await_head(_HEAD_WAIT_S)
                self._finish()
                if self._work and self._work[0].pending is None:
                    break
            can_commit = self._is_stateless or not self._work
            if self._checkpoint.is_open and can_commit and not self._recovery.is_pending:
                self._checkpoint.commit(is_settled=not self._work)
        except (RetryableError, AbortRequired, OutcomeUnknown) as exc:
            logger.warning("%s: not committed at the end: %s", self._context.topic, exc)

    def _close(self) -> None:
        """Abort what is still open, leave the group, drop the producer."""
        self._work.clear()
        if self._checkpoint.is_open and not self._recovery.producer:
            try:
                self._checkpoint.abort()
            except PenstockError as exc:
                logger.warning("%s: not aborted at the end: %s", self._context.topic, exc)
        self._checkpoint.drop()
        self._consumer.close()
        self._producer.close()

    # Telling

    def _observe_batch(self, rows: int) -> None:
        metrics, topic = self._context.metrics, self._context.topic
        metrics.batch_rows.labels(topic).observe(rows)
        metrics.batch_fill.labels(topic).observe(rows / self._loop.max_batch_rows)

    def _keep_house(self) -> None:
        """Once a second: gauges, and positions moved past control records while idle."""
        self._next_housekeeping = self._beat + _HOUSEKEEPING_S
        metrics, topic = self._context.metrics, self._context.topic
        for partition, lag in self.lag.items():
            metrics.lag.labels(topic, str(partition)).set(lag)
        for partition, drain_s in self._consumer.lag.drain_s(self._consumer.owned).items():
            metrics.drain.labels(topic, str(partition)).set(drain_s)
        metrics.in_flight.labels(topic).set(len(self._work))
        metrics.breaker_open.labels(topic).set(self._outage.is_active)
        if self.ready and not self._work and not self._checkpoint.is_open:
            self._checkpoint.step_over()
