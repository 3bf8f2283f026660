"""The job's side of the retrain topic: its request is read, each of its own events written once."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from penstock_routing.states import JOB
from penstock_routing.topic import SchemaRegistry
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.errors import ConfigError, PenstockError, RecordError
from penstock_schemas.records import RetrainEvent
from penstock_schemas.retrain_requests import CANCELLED, FAILED, SUPPRESSED, Request
from penstock_schemas.schema_files import schema_text
from penstock_streaming.fenced_writer import FencedWriter, LogRecord
from penstock_streaming.log_view import LogView, Span
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

LOG = logging.getLogger(__name__)
ACTOR: Final = JOB
WITHDRAWN: Final = frozenset({SUPPRESSED, CANCELLED, FAILED})
"""States in which the request no longer asks for a training."""
_PARTITION: Final = 0
_READ_TIMEOUT_S: Final = 30.0
_WRITE_TIMEOUT_S: Final = 60.0


class Withdrawn(PenstockError):
    """The request no longer asks for a training: cancelled, suppressed or given up."""


class RequestLog:
    """What the retrain topic says about one request. Not thread-safe.

    Parameters
    ----------
    topic
        One partition, key = pipeline.
    """

    def __init__(
        self, kafka: KafkaSettings, registry: SchemaRegistry, topic: str, request_id: str
    ) -> None:
        self._kafka = kafka
        self._registry = registry
        self._topic = topic
        self._schema = schema_text("retrain_event.avsc")
        self._request = Request(request_id, ends=WITHDRAWN)
        self._view = LogView(kafka)
        self._next = 0

    def refresh(self) -> None:
        """Read what is new.

        Raises
        ------
        BrokerUnavailable, RegistryUnavailable
            If one of them does not answer.
        ConfigError
            If there is no such topic.
        """
        deadline = Deadline(_READ_TIMEOUT_S)
        (here,) = self._view.partitions(self._topic)
        end = self._view.end_offsets([here], deadline, committed=True)[here]
        for messages in self._view.read({here: Span(self._next, end)}, deadline):
            for message in messages:
                offset = message.offset() or 0
                self._fold(offset, message.value() or b"")
                self._next = offset + 1
        self._next = max(self._next, end)

    def _fold(self, offset: int, value: bytes) -> None:
        try:
            fields = decode_one(value, self._registry.schema_text, self._schema)
        except RecordError as exc:
            LOG.error("%s offset %d: unreadable: %s", self._topic, offset, exc)
            return
        event = RetrainEvent.from_dict(fields)
        if event.request_id == self._request.request_id:
            self._request.fold(event, offset)

    def event(self, state: str) -> RetrainEvent | None:
        """Return the request's event of a state, as far as read; None if there is none."""
        return self._request.event(state)

    @property
    def request(self) -> RetrainEvent:
        """The request itself.

        Raises
        ------
        ConfigError
            If the topic does not have it.
        """
        found = self.event("requested")
        if found is None:
            raise ConfigError(f"{self._topic}: there is no request {self._request.request_id!r}")
        return found

    def check_wanted(self) -> None:
        """Read what is new and check that the request still stands.

        Raises
        ------
        Withdrawn
            If it does not.
        """
        self.refresh()
        end = self._request.end
        if end is not None:
            event = end.event
            raise Withdrawn(f"request {event.request_id} is {event.state}: {event.reason}")

    def write(self, state: str, **facts: Any) -> RetrainEvent:
        """Write the request's event of a state, unless it is there; return the one that is there.

        A producer with the request's own transactional id ends what an earlier one has open; only
        then is the topic read, so that no event is written twice.

        Raises
        ------
        BrokerUnavailable, RegistryUnavailable
            If it is not written in time.
        ConfigError
            If the broker refuses for good.
        """
        schema_id = self._registry.register(f"{self._topic}-value", self._schema)
        made: list[RetrainEvent] = []

        def decide(_: Deadline) -> list[LogRecord]:
            self.refresh()
            there = self.event(state)
            if there is not None:
                made.append(there)
                return []
            made.append(self.request.followed_by(state, now_ms(), actor=ACTOR, **facts))
            value = encode_one(self._schema, schema_id, made[-1].to_dict())
            return [LogRecord(self._topic, made[-1].pipeline.encode(), value, _PARTITION)]

        writer = FencedWriter(self._kafka, f"penstock-retrain-{self._request.request_id}")
        written = writer.write_decision(decide, _WRITE_TIMEOUT_S)
        if written:
            self._request.fold(made[-1], written[self._topic, _PARTITION])
        return made[-1]


def now_ms() -> int:
    """Return the time, milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000
