"""The loop: poll, submit, finish, commit, and once a second its duties. One thread, one topic.

The class of an error becomes an action here: a RecordError is a dead letter, a RetryableError
pauses the partitions and is tried again, whatever else is fatal and stops without committing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from math import inf

from confluent_kafka import Message
from penstock_schemas.errors import FatalError, FencedError, PenstockError, RetryableError

from penstock_streaming.admin import TopicIdentity
from penstock_streaming.checkpoint import Checkpoint
from penstock_streaming.clients import Clients, ConfluentClients, wrapped
from penstock_streaming.consumer import GroupConsumer
from penstock_streaming.errors import AbortRequired, BreakerTripped, OutcomeUnknown
from penstock_streaming.handler import Handler, StatelessHandler
from penstock_streaming.in_flight import InFlight, LoopContext
from penstock_streaming.lag import Backlog
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.producer import DELIVERIES
from penstock_streaming.recovery import Recovery
from penstock_streaming.settings import KafkaSettings, LoopSettings
from penstock_streaming.timing import Deadline

logger = logging.getLogger(__name__)

DUTIES_EVERY_S = 1.0
STARTING_S = 10.0
"""Time after the first readiness in which blocked partitions do not count against it, seconds."""
_IN_FLIGHT_POLL_S = 0.001
_RESULT_WAIT_S = 0.02

Retune = Callable[[], LoopSettings]
"""Returns the settings as they are to be now; asked once a second, so it must not wait."""


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
        Asked once a second for settings that have changed: those of `LoopSettings.retuned`.
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
        self._may_overlap = isinstance(handler, StatelessHandler)
        clients, handler = wrapped(loop.wrapper, clients or ConfluentClients(), handler)
        context = LoopContext(input_topic, service, loop, metrics)
        # With KIP-848 the group says nothing to a member that it gives nothing to.
        rejoin_s = loop.rejoin_timeout_s if loop.group_protocol == "classic" else inf
        consumer = GroupConsumer(
            clients, kafka.consumer_config(group_id, loop), input_topic, rejoin_s
        )
        producer = DELIVERIES[loop.delivery](clients, kafka, loop, transactional_id, consumer)
        self._context = context
        self._consumer = consumer
        self._producer = producer
        self._checkpoint = Checkpoint(context, handler, consumer, producer)
        self._in_flight = InFlight(context, handler)
        self._recovery = Recovery(
            context,
            handler,
            consumer=consumer,
            producer=producer,
            checkpoint=self._checkpoint,
            in_flight=self._in_flight,
        )
        self._identity = TopicIdentity(input_topic, clients.topics(kafka.as_librdkafka()))
        self._retune = retune
        self._stop = threading.Event()
        self._beat = time.monotonic()
        self._up_at: float | None = None
        self._duties_due_at = 0.0
        self._exported_blocked: set[int] = set()
        self._backlog = consumer.lag.backlog(())

    # What other threads may ask.

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the loop last turned; a handler's restore is one turn."""
        return time.monotonic() - self._beat

    @property
    def ready(self) -> bool:
        """Whether the assignment is known and neither outage nor breaker holds the loop up."""
        is_up = self._consumer.has_joined and not self._recovery.is_needed
        if not is_up or self._stop.is_set():
            return False
        if self._up_at is None:
            self._up_at = time.monotonic()
        # A partition that is blocked at once must not look like a service that cannot start:
        # whoever starts it would only start it again.
        has_started = time.monotonic() - self._up_at > STARTING_S
        return not (self._consumer.blocked and has_started)

    @property
    def backlog(self) -> Backlog:
        """What lay before this member a second ago at most."""
        return self._backlog

    def stop(self) -> None:
        """Ask the loop to end: it finishes what is in flight, commits and leaves the group."""
        self._stop.set()

    # The loop.

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
        recovery = self._recovery
        try:
            self._turn()
        except RetryableError as exc:
            recovery.wait_and_retry(exc)
        except BreakerTripped as exc:
            recovery.roll_back()
            recovery.block_partition(exc)
        except AbortRequired as exc:
            recovery.roll_back()
            recovery.count_abort(exc)
        except (OutcomeUnknown, FencedError) as exc:
            recovery.lose_producer(exc)
            recovery.roll_back()

    def _turn(self) -> None:
        self._beat = time.monotonic()
        self._consumer.lag.is_idle = self._is_idle
        messages = self._serve_rebalances(self._poll())
        if messages and not self._recovery.rewinding:
            topic = self._context.topic
            self._context.metrics.observe(topic, "consume", self._consumer.consume_s)
            self._in_flight.enqueue(messages)
        if self._recovery.outage.remaining_s <= 0.0:
            self._recovery.take_steps()
            self._in_flight.submit_waiting()
        self._finish()
        self._commit_if_due()
        self._recovery.resume_if_recovered()
        self._do_duties()

    def _poll(self) -> list[Message]:
        """Poll, waiting for records as long as there is nothing better to do."""
        in_flight, consumer = self._in_flight, self._consumer
        if not in_flight.is_full or consumer.paused:
            return consumer.poll_batch(self._context.loop.max_batch_rows, self._poll_s())
        in_flight.wait_for_oldest(min(_RESULT_WAIT_S, self._checkpoint.due_in_s))
        if in_flight.is_stalled:
            # The group must go on being served, and only a consumer that is paused can be polled
            # without taking more records.
            consumer.pause_all()
        return []

    def _poll_s(self) -> float:
        if self._in_flight.has_submitted:
            return _IN_FLIGHT_POLL_S
        wait_s = min(self._context.loop.idle_poll_s, max(0.0, self._checkpoint.due_in_s))
        outage = self._recovery.outage
        return min(wait_s, outage.remaining_s) if outage.is_active else wait_s

    def _serve_rebalances(self, messages: list[Message]) -> list[Message]:
        """Do what the callbacks inside the last poll have noted; return what is still ours."""
        topic = self._context.topic
        for rebalance in self._consumer.take_rebalances():
            self._context.metrics.rebalances.labels(topic, rebalance.kind).inc()
            logger.info("%s: %s %s", topic, rebalance.kind, rebalance.partitions)
            if rebalance.kind == "assigned":
                self._recovery.take_over_partitions(rebalance.partitions)
            elif rebalance.partitions:
                messages = self._give_up(set(rebalance.partitions), messages)
        return messages

    def _give_up(self, gone: set[int], messages: list[Message]) -> list[Message]:
        is_clean = not self._in_flight and not self._checkpoint.is_open
        try:
            if not is_clean:
                self._recovery.roll_back()
        finally:
            self._recovery.give_up_partitions(gone)
        return [m for m in messages if is_clean and m.partition() not in gone]

    def _finish(self) -> None:
        """Produce the results that are there."""
        try:
            for batch, handled in self._in_flight.finished():
                self._checkpoint.write_batch(batch, handled)
        except RetryableError:
            if not self._may_overlap:
                # Submitting has changed the handler's state: it must go back before a repetition.
                self._recovery.roll_back()
            raise

    def _commit_if_due(self) -> None:
        checkpoint = self._checkpoint
        if not checkpoint.is_open or checkpoint.due_in_s > 0.0:
            return
        if self._may_overlap or not self._in_flight.has_submitted:
            checkpoint.commit(is_settled=not self._in_flight)
            self._recovery.count_commit()
        elif checkpoint.is_too_old:
            raise AbortRequired("batches in flight outlive the transaction")

    # The end.

    def _drain(self) -> None:
        """Finish what is in flight and commit, within one deadline."""
        in_flight, recovery, checkpoint = self._in_flight, self._recovery, self._checkpoint
        deadline = Deadline(self._context.loop.drain_timeout_s)
        try:
            while in_flight.has_submitted and not recovery.is_needed and not deadline.expired:
                self._beat = time.monotonic()
                in_flight.wait_for_oldest(_RESULT_WAIT_S)
                self._finish()
            can_commit = self._may_overlap or not in_flight.has_submitted
            if checkpoint.is_open and can_commit and not recovery.has_steps:
                checkpoint.commit(is_settled=not in_flight)
        except (RetryableError, AbortRequired) as exc:
            logger.warning("%s: not committed at the end: %s", self._context.topic, exc)
        except (OutcomeUnknown, FencedError) as exc:
            # A producer that does not know how its commit ended must not abort it.
            logger.warning("%s: unknown at the end: %s", self._context.topic, exc)
            self._producer.close()
            recovery.needs_producer = True

    def _close(self) -> None:
        """Abort what is still open, leave the group, drop the producer."""
        self._in_flight.close()
        if self._checkpoint.is_open and not self._recovery.needs_producer:
            try:
                self._checkpoint.abort()
            except PenstockError as exc:
                logger.warning("%s: not aborted at the end: %s", self._context.topic, exc)
        self._checkpoint.clear()
        self._identity.close()
        self._consumer.close()
        self._producer.close()

    # The duties: what can be a second late.

    @property
    def _is_idle(self) -> bool:
        """Whether all that the consumer has returned is committed."""
        is_up = self._consumer.has_joined and not self._recovery.is_needed
        return is_up and not self._in_flight and not self._checkpoint.is_open

    def _do_duties(self) -> None:
        """Apply changed settings, export gauges, check the topic, commit positions while idle.

        Raises
        ------
        DataGap
            If the topic is another one of the same name.
        """
        if self._beat < self._duties_due_at:
            return
        self._duties_due_at = self._beat + DUTIES_EVERY_S
        if self._retune is not None:
            self._apply_settings(self._retune())
        self._export()
        self._identity.check(self._consumer.positions(self._consumer.owned), self._beat)
        if self._is_idle:
            self._checkpoint.step_over_control_records()

    def _apply_settings(self, wanted: LoopSettings) -> None:
        context = self._context
        loop = context.loop.retuned(wanted)
        if loop == context.loop:
            return
        context.loop = loop
        logger.info("%s: goes on with %s", context.topic, loop.model_dump(include=set(loop.LIVE)))
        opened = self._checkpoint.breaker.tune(loop.breaker_limits)
        if opened:
            logger.warning(
                "%s: dead-letter breaker: partitions %s go on", context.topic, sorted(opened)
            )
            self._consumer.unblock(opened)

    def _export(self) -> None:
        metrics, topic = self._context.metrics, self._context.topic
        consumer, is_out = self._consumer, self._recovery.outage.is_active
        consumer.lag.export(consumer.owned, metrics)
        backlog = consumer.lag.backlog(consumer.owned)
        self._backlog = replace(backlog, paused=is_out or bool(consumer.blocked))
        metrics.in_flight.labels(topic).set(len(self._in_flight))
        metrics.breaker_open.labels(topic).set(is_out)
        self._exported_blocked |= consumer.blocked
        for partition in self._exported_blocked:
            gauge = metrics.dead_letter_breaker.labels(topic, str(partition))
            gauge.set(partition in consumer.blocked)
        self._exported_blocked &= consumer.blocked
