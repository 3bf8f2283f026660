"""The routing topic: the states of a pipeline, read in order, and written as compare-and-set.

A router follows the topic; whoever decides about versions writes it under the pipeline's one
transactional id, so that each state follows from the one before it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Final, Protocol

from confluent_kafka import Message
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.errors import FatalError, RecordError, RegistryUnavailable
from penstock_schemas.records import RoutingState
from penstock_schemas.schema_files import schema_text
from penstock_streaming.fenced_writer import FencedWriter, LogRecord
from penstock_streaming.log_view import LogView
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

LOG = logging.getLogger(__name__)
PARTITION: Final = 0
Make = Callable[[RoutingState | None], RoutingState]


class SchemaRegistry(Protocol):
    """What is asked of the registry."""

    def schema_text(self, schema_id: int) -> str:
        """Return a schema by its id."""

    def register(self, subject: str, schema_text: str) -> int:
        """Register a schema, once or again, and return its id."""


class RoutingReader:
    """The routing states of one pipeline, for those who obey them.

    Each read has a client of its own, so calls may run on different threads.

    Parameters
    ----------
    topic
        The compacted topic.
    pipeline
        The pipeline; records of others are skipped.
    """

    def __init__(
        self, kafka: KafkaSettings, registry: SchemaRegistry, topic: str, pipeline: str
    ) -> None:
        self._kafka = kafka
        self._registry = registry
        self._topic = topic
        self._pipeline = pipeline
        self._schema = schema_text("routing_state.avsc")
        self._view = LogView(kafka)

    def latest(self, timeout_s: float) -> RoutingState | None:
        """Return the state in force, or None if there is none yet.

        Raises
        ------
        BrokerUnavailable
            If the end of the topic is not reached in time.
        RegistryUnavailable
            If the registry does not answer.
        """
        state = None
        for messages in self._view.read_to_end([(self._topic, PARTITION)], Deadline(timeout_s)):
            for message in messages:
                state = self._newer(message, state)
        return state

    def follow(self, stop: threading.Event, on_state: Callable[[RoutingState], None]) -> None:
        """Call ``on_state`` with the state in force and then with every newer one, until ``stop``.

        Outages are waited out; a record that cannot be read is logged and skipped.

        Raises
        ------
        FatalError
            If the broker refuses for good.
        """
        told: RoutingState | None = None
        state: RoutingState | None = None
        at_end = False
        batches = self._view.follow([(self._topic, PARTITION)], stop.is_set)
        with closing(batches):
            for messages in batches:
                at_end = at_end or not messages
                news: list[Message | None] = [*messages] or [None]
                for message in news:
                    if message is not None:
                        state = self._newer_patiently(message, state, stop)
                    if at_end and state is not None and state is not told:
                        told = state
                        on_state(state)

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
        schema_id = self._registry.register(f"{self._topic}-value", self._schema)
        made: list[RoutingState] = []

        def decide(deadline: Deadline) -> list[LogRecord]:
            current = self.latest(max(0.1, deadline.remaining_s))
            if made and current == made[-1]:
                return []  # the attempt whose outcome was unknown has written it
            state = make(current)
            made.append(state)
            if state is current:
                return []
            _check_next(current, state)
            value = encode_one(self._schema, schema_id, state.to_dict())
            return [LogRecord(self._topic, self._pipeline.encode(), value, PARTITION)]

        writer = FencedWriter(self._kafka, f"penstock-routing-{self._pipeline}")
        writer.write_decision(decide, timeout_s)
        return made[-1]


def _check_next(current: RoutingState | None, state: RoutingState) -> None:
    expected = 1 if current is None else current.revision + 1
    if state.revision != expected:
        raise FatalError(f"routing state: expected revision {expected}, got {state.revision}")
    serving = sum(v.weight for v in state.versions)
    if state.versions and serving != 100:
        raise FatalError(f"routing state: expected weights of 100 in all, got {serving}")
