"""The job's side of the retrain topic: its request, and each of its own events written once."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from penstock_routing.states import JOB
from penstock_routing.topic import SchemaRegistry
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.errors import ConfigError, PenstockError, RecordError
from penstock_schemas.records import RetrainEvent
from penstock_schemas.schema_files import schema_text
from penstock_streaming.fenced_writer import FencedWriter, LogRecord
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

from penstock_training_job.topic_log import TopicLog

LOG = logging.getLogger(__name__)
ACTOR: Final = JOB
ENDED: Final = ("suppressed", "cancelled", "failed")
"""States after which the job has no order any more."""
_READ_TIMEOUT_S: Final = 30.0
_WRITE_TIMEOUT_S: Final = 60.0


class Withdrawn(PenstockError):
    """The request is no order any more: cancelled, suppressed or given up."""


class RequestLog:
    """What the retrain topic says about one request. Not thread-safe; close it.

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
        self._request_id = request_id
        self._schema = schema_text("retrain_event.avsc")
        self._events: dict[str, RetrainEvent] = {}
        self._log = TopicLog(kafka, [topic])
        self._is_started = False

    def close(self) -> None:
        """Leave the broker."""
        self._log.close()

    def refresh(self) -> None:
        """Read what is new.

        Raises
        ------
        BrokerUnavailable, RegistryUnavailable
            If one of them does not answer.
        """
        first, end = self._log.watermarks()
        if not self._is_started:
            self._log.start(first)
            self._is_started = True
        for chunk in self._log.read(end, _READ_TIMEOUT_S):
            for offset, value in zip(chunk.offsets, chunk.values, strict=True):
                self._take(int(offset), value or b"")

    def _take(self, offset: int, value: bytes) -> None:
        try:
            fields = decode_one(value, self._registry.schema_text, self._schema)
        except RecordError as exc:
            LOG.error("%s offset %d: unreadable: %s", self._topic, offset, exc)
            return
        event = RetrainEvent.from_dict(fields)
        if event.request_id == self._request_id:
            self._events.setdefault(event.state, event)

    def event(self, state: str) -> RetrainEvent | None:
        """Return the request's event of a state, as far as read; None if there is none."""
        return self._events.get(state)

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
            raise ConfigError(f"{self._topic}: there is no request {self._request_id!r}")
        return found

    def check_wanted(self) -> None:
        """Look whether the request still stands.

        Raises
        ------
        Withdrawn
            If it does not.
        """
        self.refresh()
        for state in ENDED:
            event = self.event(state)
            if event is not None:
                raise Withdrawn(f"request {self._request_id} is {state}: {event.reason}")

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
        written: list[RetrainEvent] = []

        def decide(_: Deadline) -> list[LogRecord]:
            self.refresh()
            there = self.event(state)
            written.append(there or self.request.followed_by(state, now_ms(), actor=ACTOR, **facts))
            if there is not None:
                return []
            value = encode_one(self._schema, schema_id, written[-1].to_dict())
            return [LogRecord(self._topic, self.request.pipeline.encode(), value)]

        writer = FencedWriter(self._kafka, f"penstock-retrain-{self._request_id}")
        writer.write_decision(decide, _WRITE_TIMEOUT_S)
        return self._events.setdefault(state, written[-1])


def now_ms() -> int:
    """Return the time, milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000
