"""The audit topic: who did what, and how far it came.

It is more than a record for people. A replay writes its progress there in the transaction of its
copies, so that the log itself tells, after a kill, which records are done.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Message
from penstock_registry.schema_registry import RegistryClient
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.errors import RecordError
from penstock_schemas.records import AuditEvent
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import AUDIT_TOPIC, Topic

from penstock_streaming.admin import apply
from penstock_streaming.fenced_writer import LogRecord, write_unfenced
from penstock_streaming.log_view import LogView, Span
from penstock_streaming.settings import KafkaSettings

LOG = logging.getLogger(__name__)
SCHEMA_FILE: Final = "audit_event.avsc"
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

    def record_of(self, event: AuditEvent) -> LogRecord:
        """Return an event as a record of the topic."""
        if self._schema_id is None:
            self._schema_id = self._registry.register(f"{self.topic}-value", self._schema)
        value = encode_one(self._schema, self._schema_id, event.to_dict())
        return LogRecord(self.topic, event.actor.encode(), value)

    def write(self, event: AuditEvent) -> None:
        """Write one event outside of a transaction; it lies in the log when this returns.

        Raises
        ------
        BrokerUnavailable
            If it is not delivered in time.
        """
        write_unfenced(self._kafka, self.record_of(event), self._kafka.request_timeout_s)

    def events(self) -> list[AuditEvent]:
        """Return every event, in the order of the log; none if there is no such topic.

        What is being committed right now is waited for.

        Raises
        ------
        BrokerUnavailable
            If the end is not reached in time.
        """
        view, partition = LogView(self._kafka), (self.topic, 0)
        if self.topic not in view.topic_names():
            return []
        spans = {partition: Span(OFFSET_BEGINNING, view.end_offsets([partition])[partition])}
        batches = view.read({p: span for p, span in spans.items() if span.end})
        return [event for batch in batches for message in batch for event in self._decoded(message)]

    def _decoded(self, message: Message) -> Iterator[AuditEvent]:
        try:
            fields = decode_one(message.value() or b"", self._registry.schema_text, self._schema)
        except RecordError as exc:
            LOG.error("%s offset %s: unreadable: %s", self.topic, message.offset(), exc)
        else:
            yield AuditEvent.from_dict(fields)
