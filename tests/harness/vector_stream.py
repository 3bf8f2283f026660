"""Feature vectors at a steady rate, and when each one's prediction could be read."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from harness.fault_world import FaultWorld
from harness.tiny_model import WIDTH
from penstock_registry.client import RegistryClient, RegistrySettings
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.schema_files import schema_text

END_S: Final = 60.0
TICK_S: Final = 0.001
BATCH_ROWS: Final = 500


@dataclass
class VectorStream:
    """Sends vectors to a world's features topic until it is left; reads what is committed.

    Parameters
    ----------
    rate
        Vectors per second.
    """

    world: FaultWorld
    rate: float
    sent_at: dict[str, float] = field(default_factory=dict)
    """Monotonic seconds, by event id."""
    seen_at: dict[str, float] = field(default_factory=dict)
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Predictions by event id."""

    def __post_init__(self) -> None:
        self._no_more = threading.Event()
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(call,), daemon=True)
            for call in (self._send, self._read)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._no_more.set()
        self._threads[0].join(END_S)
        deadline = time.monotonic() + END_S
        while error is None and not self.is_complete and time.monotonic() < deadline:
            self._stop.wait(0.05)
        self._stop.set()
        self._threads[1].join(END_S)
        if error is None:
            self.still_runs()
            missing = sorted(self.sent_at.keys() - self.answers.keys())
            assert not missing, f"{len(missing)} without an answer: {missing[:5]}"

    @property
    def is_complete(self) -> bool:
        """Tell whether every vector sent has been answered, or the stream has failed."""
        return bool(self._failed) or len(self.answers) >= len(self.sent_at)

    def still_runs(self) -> None:
        """Fail if sender or reader has."""
        assert not self._failed, f"the stream failed: {self._failed!r}"

    def latencies_ms(self, since: float, until: float) -> np.ndarray:
        """Return what vectors sent in a span waited for their prediction, milliseconds."""
        return np.array(
            [
                (self.seen_at[event] - sent) * 1000
                for event, sent in self.sent_at.items()
                if since <= sent < until
            ]
        )

    def p99_ms(self, since: float, until: float) -> float:
        """Return the 99th percentile of the latencies of a span."""
        return float(np.percentile(self.latencies_ms(since, until), 99))

    def _guarded(self, call: Any) -> None:
        try:
            call()
        except BaseException as exc:
            self._failed.append(exc)

    def _send(self) -> None:
        world = self.world
        registry = RegistryClient(RegistrySettings(url=world.places.registry))
        topic, text = world.topics.features, schema_text("feature_vector.avsc")
        schema_id = registry.register(f"{topic}-value", text)
        partitions = world.loaded.config.partitions
        producer = Producer({"bootstrap.servers": world.places.kafka, "linger.ms": 0})
        start, count = time.monotonic(), 0
        while not self._no_more.wait(TICK_S):
            for number in range(count, int((time.monotonic() - start) * self.rate)):
                event = f"s{number}"
                record = {
                    "event_id": event,
                    "entity_key": f"k{number}",
                    "event_time": time.time_ns() // 1_000_000,
                    "pipeline": world.name,
                    "origin": {"topic": "none", "partition": 0, "offset": number},
                    "features": [number % 7 / 7] * WIDTH,
                }
                self.sent_at[event] = time.monotonic()
                key = f"k{number}".encode()
                value = encode_one(text, schema_id, record)
                producer.produce(topic, value, key, number % partitions)
                count = number + 1
            producer.poll(0)
        assert producer.flush(END_S) == 0

    def _read(self) -> None:
        topic, text = self.world.topics.predictions, schema_text("prediction.avsc")
        consumer = Consumer(
            {
                "bootstrap.servers": self.world.places.kafka,
                "group.id": "reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
            }
        )
        places = range(self.world.loaded.config.partitions)
        consumer.assign([TopicPartition(topic, place, 0) for place in places])
        try:
            while not self._stop.is_set():
                first = consumer.poll(0.05)
                rest = consumer.consume(BATCH_ROWS, 0) if first is not None else []
                now = time.monotonic()
                for message in [first, *rest] if first is not None else []:
                    assert message.error() is None, message.error()
                    said = decode_one(message.value() or b"", lambda _: text, text)
                    self.seen_at.setdefault(said["event_id"], now)
                    self.answers.setdefault(said["event_id"], []).append(said)
        finally:
            consumer.close()
