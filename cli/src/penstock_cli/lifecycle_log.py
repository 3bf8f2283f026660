"""The topics of a pipeline's life, read to their end and written to, every call with a deadline.

Few records each: they are read from the beginning, whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import Message
from penstock_registry.schema_registry import RegistryClient
from penstock_routing.topic import Make, RoutingReader, RoutingTopic
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.errors import BrokerUnavailable, RecordError
from penstock_schemas.records import DriftEvent, RetrainEvent, RoutingState
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import PipelineTopics
from penstock_streaming.audit import AuditLog
from penstock_streaming.fenced_writer import LogRecord, write_unfenced
from penstock_streaming.log_view import LogView
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

from penstock_cli import console
from penstock_cli.addresses import addresses
from penstock_cli.options import Profile, topics_of

if TYPE_CHECKING:
    from penstock_stack.component import StackConfig

TIMEOUT_S: Final = 10.0
WRITE_S: Final = 30.0
"""Longest time to get a routing state written, rivals included."""
_PARTITION: Final = 0


@dataclass(frozen=True, slots=True)
class LifecycleLog:
    """One pipeline's drift, retrain and routing topics.

    Each call has a client of its own, so calls may run on different threads.
    """

    kafka: KafkaSettings
    registry: RegistryClient
    topics: PipelineTopics

    def drift_events(self, timeout_s: float = TIMEOUT_S) -> list[DriftEvent]:
        """Return every drift event, oldest first; errors as `retrain_events`."""
        rows = self._read(self.topics.drift, "drift_event.avsc", timeout_s)
        return [DriftEvent.from_dict(row) for row in rows]

    def retrain_events(self, timeout_s: float = TIMEOUT_S) -> list[RetrainEvent]:
        """Return every retrain event, oldest first.

        Raises
        ------
        BrokerUnavailable
            If the end of the topic is not reached in time.
        RegistryUnavailable
            If the registry does not answer.
        """
        rows = self._read(self.topics.retrain, "retrain_event.avsc", timeout_s)
        return [RetrainEvent.from_dict(row) for row in rows]

    def routing(self, timeout_s: float = TIMEOUT_S) -> RoutingState | None:
        """Return the routing state in force, None before the first; errors as `retrain_events`."""
        topics = self.topics
        reader = RoutingReader(self.kafka, self.registry, topics.models, topics.pipeline)
        return reader.latest(timeout_s)

    def route(self, make: Make, timeout_s: float = WRITE_S) -> RoutingState:
        """Write the next routing state, as `RoutingTopic.write`."""
        topics = self.topics
        topic = RoutingTopic(self.kafka, self.registry, topics.models, topics.pipeline)
        return topic.write(make, timeout_s)

    @property
    def audit(self) -> AuditLog:
        """The audit topic."""
        return AuditLog(self.kafka, self.registry)

    def append(self, event: RetrainEvent, timeout_s: float = TIMEOUT_S) -> None:
        """Write a retrain event and wait until the broker has it.

        Raises
        ------
        BrokerUnavailable
            If it is not acknowledged in time.
        RegistryUnavailable
            If the registry does not answer.
        """
        schema = schema_text("retrain_event.avsc")
        topic = self.topics.retrain
        schema_id = self.registry.register(f"{topic}-value", schema)
        value = encode_one(schema, schema_id, event.to_dict())
        write_unfenced(self.kafka, LogRecord(topic, event.pipeline.encode(), value), timeout_s)

    def wait_for(
        self, request_id: str, is_last: Callable[[RetrainEvent], bool], timeout_s: float
    ) -> RetrainEvent:
        """Return the first event of a request that ``is_last`` accepts, as soon as it is there.

        Raises
        ------
        BrokerUnavailable
            If it does not come in time.
        """
        deadline = Deadline(timeout_s)
        topic = self.topics.retrain, _PARTITION
        with closing(LogView(self.kafka).follow([topic], lambda: deadline.expired)) as batches:
            for row in self._decoded(batches, "retrain_event.avsc"):
                event = RetrainEvent.from_dict(row)
                if event.request_id == request_id and is_last(event):
                    return event
        raise BrokerUnavailable(f"{request_id} has not ended within {timeout_s:.0f} s")

    def _read(self, topic: str, schema_file: str, timeout_s: float) -> list[dict[str, Any]]:
        batches = LogView(self.kafka).read_to_end([(topic, _PARTITION)], Deadline(timeout_s))
        try:
            return list(self._decoded(batches, schema_file))
        except BrokerUnavailable as exc:
            raise BrokerUnavailable(f"{exc}; see 'penstock status'") from exc

    def _decoded(
        self, batches: Iterable[list[Message]], schema_file: str
    ) -> Iterator[dict[str, Any]]:
        schema = schema_text(schema_file)
        for message in (one for batch in batches for one in batch):
            value = message.value()
            if value is None:
                continue
            try:
                yield decode_one(value, self.registry.schema_text, schema)
            except RecordError as exc:
                where = f"{message.topic()} offset {message.offset()}"
                console.note(f"penstock: {where} is unreadable and skipped: {exc}")


def now_ms() -> int:
    """Return the time now in milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


def open_log(profile: Profile, config: StackConfig, folder: Path) -> LifecycleLog:
    """Return the log of one pipeline, where the profile says.

    Raises
    ------
    ConfigError
        Profile prod, and the settings name no address.
    """
    found = addresses(profile, config)
    return LifecycleLog(found.kafka, RegistryClient(found.registry), topics_of(folder))
