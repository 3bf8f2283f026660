"""Writing the topic that orders routers what to serve: compare and set.

Writers take turns by fencing: each write starts a producer with the pipeline's one transactional
id, which ends what a rival has open, then reads to the end of the topic, and only then decides.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.errors import (
    BrokerUnavailable,
    ConfigError,
    FatalError,
    RecordError,
    RegistryUnavailable,
)
from penstock_schemas.records import RoutingState
from penstock_schemas.schema_files import schema_text
from penstock_streaming.errors import (
    TransactionClass,
    Verdict,
    error_of,
    transaction_class,
    translated,
    verdict,
)
from penstock_streaming.settings import KafkaSettings, LoopSettings
from penstock_streaming.timing import Deadline

LOG = logging.getLogger(__name__)
PARTITION: Final = 0
_POLL_S: Final = 0.2


class SchemaRegistry(Protocol):
    """What is asked of the registry."""

    def schema_text(self, schema_id: int) -> str:
        """Return a schema by its id."""

    def register(self, subject: str, schema_text: str) -> int:
        """Register a schema, once or again, and return its id."""


class RoutingReader:
    """The routing states of one pipeline, for those who obey them.

    Each call has a client of its own, so calls may run on different threads.

    Parameters
    ----------
    topic
        The compacted topic.
    pipeline
        The pipeline; records of others are passed over.
    """

    def __init__(
        self, kafka: KafkaSettings, registry: SchemaRegistry, topic: str, pipeline: str
    ) -> None:
        self._kafka = kafka
        self._registry = registry
        self._topic = topic
        self._pipeline = pipeline
        self._schema = schema_text("routing_state.avsc")

    def latest(self, timeout_s: float) -> RoutingState | None:
        """Return the state in force, or None if there is none yet.

        Raises
        ------
        BrokerUnavailable
            If the end of the topic is not reached in time.
        RegistryUnavailable
            If the registry does not answer.
        """
        deadline = Deadline(timeout_s)
        state = None
        consumer = self._consumer()
        try:
            while not deadline.expired:
                message = consumer.poll(min(_POLL_S, deadline.remaining_s))
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    state = self._newer(message, state)
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                    return state
                elif verdict(error) is not Verdict.RETRY:
                    raise translated(error, f"reading {self._topic}")
        finally:
            consumer.close()
        raise BrokerUnavailable(f"{self._topic}: its end was not reached in {timeout_s:.0f} s")

    def follow(self, stop: threading.Event, on_state: Callable[[RoutingState], None]) -> None:
        """Call ``on_state`` with the state in force and then with every newer one, until ``stop``.

        Outages are waited out; a record that cannot be read is logged and passed over.

        Raises
        ------
        FatalError
            If the broker refuses for good.
        """
        consumer = self._consumer()
        told: RoutingState | None = None
        state: RoutingState | None = None
        at_end = False
        try:
            while not stop.is_set():
                message = consumer.poll(_POLL_S)
                if message is not None and message.error() is None:
                    state = self._newer_patiently(message, state, stop)
                elif message is not None:
                    at_end = at_end or self._is_end(message)
                if at_end and state is not None and state is not told:
                    told = state
                    on_state(state)
        finally:
            consumer.close()

    def _is_end(self, message: Message) -> bool:
        error = message.error()
        if error is None or error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            return error is not None
        if verdict(error) is not Verdict.RETRY:
            raise translated(error, f"reading {self._topic}")
        return False

    def _newer_patiently(
        self, message: Message, state: RoutingState | None, stop: threading.Event
    ) -> RoutingState | None:
        while not stop.is_set():
            try:
                return self._newer(message, state)
            except RegistryUnavailable as exc:
                LOG.warning("routing state of %s has to wait: %s", self._pipeline, exc)
                stop.wait(exc.retry_after_s)
        return state

    def _newer(self, message: Message, state: RoutingState | None) -> RoutingState | None:
        """Return the record's state if it is ours and newer, else ``state``."""
        value = message.value()
        if message.key() != self._pipeline.encode() or value is None:
            return state
        try:
            fields = decode_one(value, self._registry.schema_text, self._schema)
        except RecordError as exc:
            LOG.error("%s offset %s: unreadable: %s", self._topic, message.offset(), exc)
            return state
        found = RoutingState.from_dict(fields)
        return found if state is None or found.revision > state.revision else state

    def _consumer(self) -> Consumer:
        consumer = Consumer(
            {
                **self._kafka.as_librdkafka(),
                "group.id": f"penstock-routing-{self._pipeline}",  # asked for, never joined
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
            }
        )
        consumer.assign([TopicPartition(self._topic, PARTITION, 0)])
        return consumer


Make = Callable[[RoutingState | None], RoutingState]
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 4.0


class RoutingTopic(RoutingReader):
    """The routing states of one pipeline, for those who decide them; arguments as the reader's."""

    def write(self, make: Make, timeout_s: float) -> RoutingState:
        """Compare and set: make the next state from the one in force, and write it.

        A lost race or an unknown outcome starts again from the then latest state, so ``make`` may
        be called several times.

        Parameters
        ----------
        make
            Gets the state in force, returns the next with the revision one higher; returning the
            same object writes nothing.

        Returns
        -------
        The state in force afterwards.

        Raises
        ------
        BrokerUnavailable
            If it is not written in time.
        RegistryUnavailable
            If the registry does not answer.
        FatalError
            If ``make`` returns a wrong revision, or the broker refuses for good.
        """
        deadline = Deadline(timeout_s)
        schema_id = self._registry.register(f"{self._topic}-value", self._schema)
        attempted: RoutingState | None = None
        longest_pause_s = _FIRST_PAUSE_S
        while not deadline.expired:
            producer = self._producer()
            try:
                producer.init_transactions(max(0.1, deadline.remaining_s))
                current = self.latest(max(0.1, deadline.remaining_s))
                if attempted is not None and current == attempted:
                    return attempted  # it was written after all
                state = make(current)
                if state is current:
                    return state
                _check_next(current, state)
                attempted = state
                self._send(producer, encode_one(self._schema, schema_id, state.to_dict()), deadline)
            except KafkaException as exc:
                _again_or_raise(exc, self._topic)
            else:
                return state
            # Rivals that start again at once would fence each other for ever.
            pause_s = random.uniform(0.0, longest_pause_s)  # noqa: S311 - no secret
            time.sleep(min(pause_s, deadline.remaining_s))
            longest_pause_s = min(2 * longest_pause_s, _LONGEST_PAUSE_S)
        raise BrokerUnavailable(f"{self._topic}: not written in {timeout_s:.0f} s")

    def _producer(self) -> Producer:
        config: dict[str, Any] = self._kafka.producer_config(
            LoopSettings(), f"penstock-routing-{self._pipeline}"
        )
        return Producer(config)

    def _send(self, producer: Producer, value: bytes, deadline: Deadline) -> None:
        producer.begin_transaction()
        producer.produce(self._topic, value, self._pipeline.encode(), PARTITION)
        while True:
            try:
                return producer.commit_transaction(max(0.1, deadline.remaining_s))
            except KafkaException as exc:
                retriable = transaction_class(error_of(exc)) is TransactionClass.RETRIABLE
                if not retriable or deadline.expired:
                    raise


def _check_next(current: RoutingState | None, state: RoutingState) -> None:
    expected = 1 if current is None else current.revision + 1
    if state.revision != expected:
        raise FatalError(f"routing state: expected revision {expected}, got {state.revision}")
    serving = sum(v.weight for v in state.versions)
    if state.versions and serving != 100:
        raise FatalError(f"routing state: expected weights of 100 in all, got {serving}")


def _again_or_raise(exc: KafkaException, topic: str) -> None:
    """Return if the write may be tried again with a new producer; raise if it never succeeds."""
    error = error_of(exc)
    if verdict(error) in (Verdict.CONFIG, Verdict.UNDELIVERABLE):
        raise ConfigError(f"writing {topic}: {error.name()}: {error.str()}") from exc
    LOG.warning("writing %s: %s; once more", topic, error.name())
