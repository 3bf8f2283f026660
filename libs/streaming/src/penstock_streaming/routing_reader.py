"""Reading the topic that orders routers what to serve: what is in force, and what comes.

Compacted, one partition, key = pipeline, one `RoutingState` per record.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, Protocol

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from penstock_schemas.codec import decode_one
from penstock_schemas.errors import BrokerUnavailable, RecordError, RegistryUnavailable
from penstock_schemas.records import RoutingState
from penstock_schemas.schema_files import schema_text

from penstock_streaming.deadline import Deadline
from penstock_streaming.errors import Verdict, translated, verdict
from penstock_streaming.settings import KafkaSettings

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
