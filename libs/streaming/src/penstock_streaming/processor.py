"""The loop: poll, hand over, finish in order, commit. One thread, one topic, one group member.

Here the class of an error becomes an action: a RecordError is a dead letter, a RetryableError
pauses the partitions and is tried again, whatever else is fatal and stops without committing.
"""

from __future__ import annotations

import logging
import threading
import time
from math import inf

from penstock_schemas.errors import FatalError, FencedError, PenstockError, RetryableError

from penstock_streaming.checkpoint import Checkpoint, LoopContext
from penstock_streaming.clients import Clients, ConfluentClients
from penstock_streaming.consumer import InputConsumer
from penstock_streaming.deadline import Deadline
from penstock_streaming.errors import AbortRequired, BreakerTripped, OutcomeUnknown
from penstock_streaming.fail_points import FailPoints
from penstock_streaming.flushing_producer import FlushingProducer
from penstock_streaming.handler import Handler, StatelessHandler
from penstock_streaming.housekeeping import Housekeeping, Retune
from penstock_streaming.in_flight import InFlight
from penstock_streaming.intake import Intake
from penstock_streaming.lag import Backlog
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.places import TopicIdentity
from penstock_streaming.recovery import LoopParts, Recovery
from penstock_streaming.settings import KafkaSettings, LoopSettings
from penstock_streaming.transactional_producer import TransactionalProducer

logger = logging.getLogger(__name__)

STARTING_S = 10.0
"""Time after the first readiness in which closed partitions do not count against it, seconds."""
_HEAD_WAIT_S = 0.02


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
    retune
        Asked once a second for settings that have changed.
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
        retune: Retune | None = None,
        clients: Clients | None = None,
    ) -> None:
        clients = clients or ConfluentClients()
        context = LoopContext(input_topic, service, loop, metrics, FailPoints.from_environment())
        # With KIP-848 the group says nothing to a member that it gives nothing to.
        rejoin_s = loop.rejoin_timeout_s if loop.group_protocol == "classic" else inf
        consumer = InputConsumer(
            clients, kafka.consumer_config(group_id, loop), input_topic, rejoin_s
        )
        exactly_once = loop.delivery == "exactly_once"
        config = kafka.producer_config(loop, transactional_id if exactly_once else None)
        kind = TransactionalProducer if exactly_once else FlushingProducer
        producer: TransactionalProducer | FlushingProducer = kind(
            lambda added: clients.producer({**config, **added}), consumer, loop, context.fail_points
        )
        self._context = context
        self._may_overlap = isinstance(handler, StatelessHandler)
        self._consumer = consumer
        self._producer = producer
        self._checkpoint = Checkpoint(context, handler, consumer, producer)
        self._work = InFlight(context, handler)
        parts = LoopParts(context, handler, consumer, producer, self._checkpoint, self._work)
        self._recovery = Recovery(parts)
        identity = TopicIdentity(input_topic, clients.topics(kafka.as_librdkafka()))
        self._intake = Intake(parts, self._recovery)
        self._house = Housekeeping(parts, self._recovery, identity, retune)
        self._stop = threading.Event()
        self._beat = time.monotonic()
        self._up_at: float | None = None

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the loop last turned; a handler's restore is one turn."""
        return time.monotonic() - self._beat

    @property
    def ready(self) -> bool:
        """Tell whether the assignment is known and neither outage nor breaker holds it up."""
        is_up = self._consumer.has_joined and not self._recovery.is_needed
        if not is_up or self._stop.is_set():
            return False
        if self._up_at is None:
            self._up_at = time.monotonic()
        # A partition that closes at once must not look like a service that cannot start: whoever
        # starts it would only start it again.
        has_started = time.monotonic() - self._up_at > STARTING_S
        return not (self._consumer.gates.barred and has_started)

    @property
    def assigned(self) -> frozenset[int]:
        """Partitions of this member."""
        return frozenset(self._consumer.gates.owned)

    @property
    def lag(self) -> dict[int, int]:
        """Records behind the last stable offset, per partition whose end is known."""
        return self._consumer.lag.lag(self.assigned)

    @property
    def backlog(self) -> Backlog:
        """What lay before this member a second ago at most; any thread may ask."""
        return self._house.backlog

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
        except FatalError:
            raise
        except Exception as exc:
            raise FatalError(f"unexpected {type(exc).__name__}: {exc}") from exc
        finally:
            self._close()

    def _guarded_turn(self) -> None:
        """Turn once; the one place where an error's class becomes an action."""
        try:
            self._turn()
        except RetryableError as exc:
            self._recovery.put_off(exc)
        except BreakerTripped as exc:
            self._recovery.roll_back()
            self._recovery.close_partition(exc)
        except AbortRequired as exc:
            self._recovery.roll_back()
            self._recovery.count_abort(exc)
        except (OutcomeUnknown, FencedError) as exc:
            self._recovery.lose_producer(exc)
            self._recovery.roll_back()

    def _turn(self) -> None:
        self._beat = time.monotonic()
        self._consumer.lag.is_idle = self._house.is_idle
        messages = self._intake.messages()
        if messages and not self._recovery.steps.rewind:
            topic = self._context.topic
            self._context.metrics.observe(topic, "consume", self._consumer.consume_s)
            self._work.add(messages)
        if self._recovery.outage.remaining_s <= 0.0:
            self._recovery.take_steps()
            self._work.submit()
        self._finish()
        self._commit_if_due()
        self._recovery.settle()
        self._house.keep(self._beat)

    def _finish(self) -> None:
        try:
            self._work.finish(self._checkpoint.write)
        except RetryableError:
            if not self._may_overlap:
                # Submitting has changed the handler's state: it must go back before a repetition.
                self._recovery.roll_back()
            raise

    def _commit_if_due(self) -> None:
        checkpoint = self._checkpoint
        if not checkpoint.is_open or checkpoint.due_in_s > 0.0:
            return
        if self._may_overlap or not self._work.is_flying:
            checkpoint.commit(is_settled=not self._work)
            self._recovery.count_commit()
        elif checkpoint.is_too_old:
            raise AbortRequired("batches in flight outlive the transaction")

    def _drain(self) -> None:
        """Finish what is in flight and commit, within one deadline."""
        deadline = Deadline(self._context.loop.drain_timeout_s)
        try:
            while self._work.is_flying and not self._recovery.is_needed and not deadline.expired:
                self._beat = time.monotonic()
                self._work.await_head(_HEAD_WAIT_S)
                self._finish()
            can_commit = self._may_overlap or not self._work.is_flying
            if self._checkpoint.is_open and can_commit and not self._recovery.steps.is_pending:
                self._checkpoint.commit(is_settled=not self._work)
        except (RetryableError, AbortRequired) as exc:
            logger.warning("%s: not committed at the end: %s", self._context.topic, exc)
        except (OutcomeUnknown, FencedError) as exc:
            # A producer that does not know how its commit ended must not abort it.
            logger.warning("%s: unknown at the end: %s", self._context.topic, exc)
            self._producer.close()
            self._recovery.steps.producer = True

    def _close(self) -> None:
        """Abort what is still open, leave the group, drop the producer."""
        self._work.close()
        if self._checkpoint.is_open and not self._recovery.steps.producer:
            try:
                self._checkpoint.abort()
            except PenstockError as exc:
                logger.warning("%s: not aborted at the end: %s", self._context.topic, exc)
        self._checkpoint.drop()
        self._house.close()
        self._consumer.close()
        self._producer.close()
