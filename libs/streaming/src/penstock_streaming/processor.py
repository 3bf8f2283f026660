"""The loop: poll, submit, finish in order, commit. One thread, one topic, one group member.

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

from penstock_streaming.checkpoint import Checkpoint, LoopContext
from penstock_streaming.clients import Clients, ConfluentClients
from penstock_streaming.consumer import InputConsumer, TopicIdentity
from penstock_streaming.errors import AbortRequired, BreakerTripped, OutcomeUnknown
from penstock_streaming.fail_points import FailPoints
from penstock_streaming.handler import Handler, StatelessHandler
from penstock_streaming.in_flight import InFlight
from penstock_streaming.lag import Backlog
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.producer import FlushingProducer, TransactionalProducer
from penstock_streaming.recovery import LoopParts, Recovery
from penstock_streaming.settings import KafkaSettings, LoopSettings
from penstock_streaming.timing import Deadline

logger = logging.getLogger(__name__)

EVERY_S = 1.0

Retune = Callable[[], LoopSettings]
"""Returns the settings as they are to be now; asked once a second, so it must not wait."""

_IN_FLIGHT_POLL_S = 0.001
_HEAD_WAIT_S = 0.02
STARTING_S = 10.0
"""Time after the first readiness in which closed partitions do not count against it, seconds."""


class Housekeeping:
    """Keeps what can be a second late.

    Parameters
    ----------
    parts
        Of the loop.
    recovery
        Tells of outages.
    identity
        Of the input topic.
    retune
        Where settings may change while the loop runs: those of `LoopSettings.retuned`.

    Attributes
    ----------
    backlog
        What lay before this member the last time.
    """

    def __init__(
        self,
        parts: LoopParts,
        recovery: Recovery,
        identity: TopicIdentity,
        retune: Retune | None,
    ) -> None:
        self._parts = parts
        self._recovery = recovery
        self._identity = identity
        self._retune = retune
        self._due_at = 0.0
        self._closed: set[int] = set()
        self.backlog: Backlog = parts.consumer.lag.backlog(())

    @property
    def is_idle(self) -> bool:
        """Tell whether all that the consumer has returned is committed."""
        parts = self._parts
        is_up = parts.consumer.has_joined and not self._recovery.is_needed
        return is_up and not parts.in_flight and not parts.checkpoint.is_open

    def keep(self, now_s: float) -> None:
        """Do all of it if a second has passed.

        Raises
        ------
        DataGap
            If the topic is another one of the same name.
        """
        if now_s < self._due_at:
            return
        self._due_at = now_s + EVERY_S
        if self._retune is not None:
            self._take_settings(self._retune())
        self._export()
        self._identity.check(self._parts.consumer.places.reached(self._parts.consumer.gates.owned))
        if self.is_idle:
            # Past control records, so that the lag gets to zero.
            self._parts.checkpoint.step_over()

    def close(self) -> None:
        """Drop what it asks."""
        self._identity.close()

    def _take_settings(self, wanted: LoopSettings) -> None:
        context = self._parts.context
        loop = context.loop.retuned(wanted)
        if loop == context.loop:
            return
        context.loop = loop
        logger.info("%s: goes on with %s", context.topic, loop.model_dump(include=set(loop.LIVE)))
        opened = self._parts.checkpoint.breaker.tune(loop.breaker_limits)
        if opened:
            logger.warning(
                "%s: dead-letter breaker: partitions %s go on", context.topic, sorted(opened)
            )
            self._parts.consumer.gates.unbar(opened)

    def _export(self) -> None:
        parts = self._parts
        metrics, topic = parts.context.metrics, parts.context.topic
        consumer, is_out = parts.consumer, self._recovery.outage.is_active
        consumer.lag.export(consumer.gates.owned, metrics)
        found = consumer.lag.backlog(consumer.gates.owned)
        self.backlog = replace(found, paused=is_out or bool(consumer.gates.barred))
        metrics.in_flight.labels(topic).set(len(parts.in_flight))
        metrics.breaker_open.labels(topic).set(is_out)
        self._closed |= consumer.gates.barred
        for partition in self._closed:
            gauge = metrics.dead_letter_breaker.labels(topic, str(partition))
            gauge.set(partition in consumer.gates.barred)
        self._closed &= consumer.gates.barred


class Intake:
    """Polls, and does what the group asks for in between.

    Parameters
    ----------
    parts
        Of the loop.
    recovery
        Takes over partitions and gives them up.
    """

    def __init__(self, parts: LoopParts, recovery: Recovery) -> None:
        self._parts = parts
        self._recovery = recovery

    def messages(self) -> list[Message]:
        """Return what has arrived of partitions that are, and stay, this member's.

        Raises
        ------
        PenstockError
            What `InputConsumer.fetch` raises, and a handler that gives up its state.
        """
        return self._serve_rebalances(self._fetch())

    def _fetch(self) -> list[Message]:
        """Poll for as long as there is nothing better to do."""
        parts = self._parts
        work, gates = parts.in_flight, parts.consumer.gates
        if not work.is_full or gates.held:
            return parts.consumer.fetch(parts.context.loop.max_batch_rows, self._poll_s())
        work.await_head(min(_HEAD_WAIT_S, parts.checkpoint.due_in_s))
        if work.is_stalled:
            # The group must go on being served, and only a consumer that is paused can be polled
            # without taking more records.
            gates.hold()
        return []

    def _poll_s(self) -> float:
        parts = self._parts
        if parts.in_flight.is_flying:
            return _IN_FLIGHT_POLL_S
        wait_s = min(parts.context.loop.idle_poll_s, max(0.0, parts.checkpoint.due_in_s))
        outage = self._recovery.outage
        return min(wait_s, outage.remaining_s) if outage.is_active else wait_s

    def _serve_rebalances(self, messages: list[Message]) -> list[Message]:
        """Do what the callbacks inside the last fetch have noted; return what is still ours."""
        parts, topic = self._parts, self._parts.context.topic
        for event in parts.consumer.take_events():
            parts.context.metrics.rebalances.labels(topic, event.kind).inc()
            logger.info("%s: %s %s", topic, event.kind, event.partitions)
            if event.kind == "assigned":
                parts.in_flight.take_over()
                self._recovery.steps.assigned(event.partitions)
            elif event.partitions:
                messages = self._give_up(set(event.partitions), messages)
        return messages

    def _give_up(self, gone: set[int], messages: list[Message]) -> list[Message]:
        is_clean = not self._parts.in_flight and not self._parts.checkpoint.is_open
        try:
            if not is_clean:
                self._recovery.roll_back()
        finally:
            self._recovery.give_up(gone)
        return [m for m in messages if is_clean and m.partition() not in gone]


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
