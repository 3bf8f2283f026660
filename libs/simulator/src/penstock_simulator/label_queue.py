"""Labels on their way: each is held back until its time, then sent as an interaction."""

from __future__ import annotations

import heapq

from penstock_schemas.schema_files import schema_text

from penstock_simulator.foreign_producer import ForeignProducer
from penstock_simulator.wire import avro_writer

SCHEMA = schema_text("interaction.avsc")


class LabelQueue:
    """Labels of events already sent.

    Parameters
    ----------
    topic
        Topic of the interactions.
    schema_id
        Id of the registered interaction schema.
    """

    def __init__(self, producer: ForeignProducer, topic: str, schema_id: int) -> None:
        self._producer = producer
        self._topic = topic
        self._write = avro_writer(SCHEMA, schema_id)
        self._waiting: list[tuple[int, str, float]] = []

    def add(self, at_ms: int, event_id: str, label: float) -> None:
        """Hold a label back until the simulated time ``at_ms``."""
        heapq.heappush(self._waiting, (at_ms, event_id, label))

    def send(self, until_ms: int | None) -> int:
        """Send what is known by ``until_ms``, or everything; return how many."""
        sent = 0
        while self._waiting and (until_ms is None or self._waiting[0][0] <= until_ms):
            at_ms, event_id, label = heapq.heappop(self._waiting)
            interaction = {"event_id": event_id, "label": label, "occurred_at": at_ms}
            self._producer.send(self._topic, event_id.encode(), self._write(interaction))
            sent += 1
        return sent
