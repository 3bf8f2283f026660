"""The audit topic: who did what, and how far it came.

It is more than a record for people. A replay writes its progress there in the transaction of its
copies, so that the log itself tells, after a kill, which records are done.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from penstock_registry.client import RegistryClient
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.errors import BrokerUnavailable, RecordError
from penstock_schemas.records import AuditEvent
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import AUDIT_TOPIC, Topic
from penstock_streaming.admin import apply
from penstock_streaming.errors import CLIENT_EXCEPTIONS, Verdict, error_of, translated, verdict
from penstock_streaming.settings import KafkaSettings, LoopSettings
from penstock_streaming.timing import Deadline

from penstock_replay.places import OffsetSet
from penstock_replay.topic_facts import BrokerFacts, broker_errors

LOG = logging.getLogger(__name__)
SCHEMA_FILE: Final = "audit_event.avsc"
READ_S: Final = 60.0
"""Time to reach the end of the topic; an open transaction of another tool ends in that, seconds."""
_PARTITION: Final = 0
_CONFIG: Final = {"retention.ms": "-1", "compression.type": "producer"}


@dataclass(frozen=True, slots=True)
class Operation:
    """Somebody's doing, of which every audit record tells a step.

    Parameters
    ----------
    operation_id
        Kept when the operation is resumed.
    arguments
        As they were given.
    """

    operation_id: str
    actor: str
    action: str
    subject: str
    arguments: Mapping[str, str] = field(default_factory=dict)

    def event(
        self,
        phase: str,
        *,
        outcome: str = "",
        reason: str = "",
        ranges: Mapping[str, str] | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> AuditEvent:
        """Return a step of it, now."""
        return AuditEvent(
            event_id=uuid.uuid4().hex,
            operation_id=self.operation_id,
            at=time.time_ns() // 1_000_000,
            actor=self.actor,
            action=self.action,
            subject=self.subject,
            phase=phase,
            outcome=outcome,
            reason=reason[:1000],
            arguments=dict(self.arguments) if phase != "progress" else {},
            ranges=dict(ranges or {}),
            counts=dict(counts or {}),
        )


class AuditLog:
    """Reads and writes the audit topic.

    Parameters
    ----------
    topic
        Its name; a test has its own.
    """

    def __init__(
        self, kafka: KafkaSettings, registry: RegistryClient, topic: str = AUDIT_TOPIC
    ) -> None:
        self._kafka = kafka
        self._registry = registry
        self._schema = schema_text(SCHEMA_FILE)
        self._schema_id: int | None = None
        self.topic = topic

    def ensure(self) -> None:
        """Make the topic and its subject if they are missing."""
        apply(self._kafka, self._registry, [Topic(self.topic, 1, SCHEMA_FILE, dict(_CONFIG))], {})

    def encode(self, event: AuditEvent) -> bytes:
        """Return the value of an event's record."""
        if self._schema_id is None:
            self._schema_id = self._registry.register(f"{self.topic}-value", self._schema)
        return encode_one(self._schema, self._schema_id, event.to_dict())

    def write(self, event: AuditEvent) -> None:
        """Write one event outside of a transaction; it lies in the log when this returns.

        Raises
        ------
        BrokerUnavailable
            If it is not delivered in time.
        """
        failed: list[KafkaError] = []

        def on_delivery(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failed.append(error)

        config: dict[str, Any] = self._kafka.producer_config(LoopSettings())
        producer = Producer({**config, "delivery.report.only.error": True})
        with broker_errors(f"writing {self.topic}"):
            producer.produce(
                self.topic,
                self.encode(event),
                event.actor.encode(),
                _PARTITION,
                on_delivery=on_delivery,
            )
            left = producer.flush(self._kafka.request_timeout_s)
        if failed:
            raise translated(failed[0], f"writing {self.topic}")
        if left:
            raise BrokerUnavailable(f"{self.topic}: not written in time")

    def events(self) -> list[AuditEvent]:
        """Return every event, in the order of the log; none if there is no such topic.

        Raises
        ------
        BrokerUnavailable
            If the end is not reached in time.
        """
        if self.topic not in BrokerFacts(self._kafka).names():
            return []
        found: list[AuditEvent] = []
        deadline = Deadline(READ_S)
        end = self._end()
        if not end:
            return found
        consumer = Consumer(self._reader("read_committed"))
        place = TopicPartition(self.topic, _PARTITION, 0)
        try:
            consumer.assign([place])
            while consumer.position([place])[0].offset < end:
                for message in consumer.consume(1000, 0.1):
                    error = message.error()
                    if error is None:
                        found.extend(self._decoded(message.value(), message.offset()))
                    elif not _is_passing(error):
                        raise translated(error, f"reading {self.topic}")
                if deadline.expired:
                    raise BrokerUnavailable(f"{self.topic}: its end is not reached in {READ_S} s")
        except CLIENT_EXCEPTIONS as exc:
            raise translated(error_of(exc), f"reading {self.topic}") from exc
        finally:
            consumer.close()
        return found

    def _end(self) -> int:
        """Return the high watermark: what commits right now lies beyond the last stable offset."""
        consumer = Consumer(self._reader("read_uncommitted"))
        try:
            with broker_errors(f"reading {self.topic}"):
                place = TopicPartition(self.topic, _PARTITION)
                return int(consumer.get_watermark_offsets(place, self._kafka.request_timeout_s)[1])
        finally:
            consumer.close()

    def _reader(self, isolation: str) -> dict[str, Any]:
        return {
            **self._kafka.as_librdkafka(),
            "group.id": "penstock-audit-reader",  # asked for, never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
        }

    def _decoded(self, value: bytes | None, offset: int | None) -> Iterable[AuditEvent]:
        try:
            yield AuditEvent.from_dict(
                decode_one(value or b"", self._registry.schema_text, self._schema)
            )
        except RecordError as exc:
            LOG.error("%s offset %s: unreadable: %s", self.topic, offset, exc)


def done_in(events: Iterable[AuditEvent]) -> dict[str, OffsetSet]:
    """Return what the progress among some events says is done, by partition and topic identity."""
    done: dict[str, OffsetSet] = {}
    for event in events:
        if event.phase == "progress":
            for name, text in event.ranges.items():
                done.setdefault(name, OffsetSet()).merge(OffsetSet(text))
    return done


def _is_passing(error: KafkaError) -> bool:
    return error.code() == KafkaError._PARTITION_EOF or verdict(error) is Verdict.RETRY  # noqa: SLF001
