"""Publish simulated events and, later, their labels: what a producer application does.

The simulated time of a run ends about now and never runs backwards. Each label is held back until
its time and is then sent as an interaction.
"""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

import fastavro
import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition
from penstock_pipelines.loader import LoadedPipeline
from penstock_schemas.errors import BrokerUnavailable, ConfigError
from penstock_schemas.schema_files import schema_text

from penstock_simulator.bad_events import EXPECTED, Spoiler, SpoiltEvent, draw_kinds
from penstock_simulator.foreign_producer import (
    REQUEST_TIMEOUT_S,
    Connection,
    ForeignProducer,
    avro_writer,
    register,
    rows_of,
)
from penstock_simulator.generators import Drift, EventGenerator, SimulatedBatch, make_generator

LABEL_SCHEMA: Final = schema_text("interaction.avsc")
CHUNK: Final = 5_000
"""Events drawn at once; fixed, so that a seed gives the same events at any rate."""
_SLICE_S: Final = 0.05
"""Time between two sends when a rate is given, seconds."""
_LATEST_LABEL: Final = 1.5
"""Largest lag of a label, as a multiple of the mean delay."""


@dataclass(frozen=True, slots=True)
class SimulationPlan:
    """What to publish.

    Parameters
    ----------
    events
        Number of events, unless the run is stopped before.
    rate
        Events per second of wall-clock time; None publishes as fast as Kafka takes them. The
        simulated time of the events does not depend on it.
    drift
        A change to plant.
    label_delay_s
        Mean time from an event to its label, seconds of simulated time; None sends no labels.
    bad_share
        Share of events spoilt on purpose, in [0, 1], see `bad_events`.
    start_ms
        Simulated time before the first event; None ends about now, after what is there already.
    """

    events: int
    rate: float | None = None
    seed: int = 1
    drift: Drift | None = None
    label_delay_s: float | None = 60.0
    bad_share: float = 0.0
    start_ms: int | None = None


Progress = Callable[[int], None]
"""Called with the number of events sent so far."""
Watch = Callable[[SimulatedBatch], None]
"""Called with each batch before it is sent: it knows the truth, which the topics never tell."""


def simulate(
    pipeline: LoadedPipeline,
    connection: Connection,
    plan: SimulationPlan,
    progress: Progress = lambda sent: None,
    *,
    on_batch: Watch = lambda batch: None,
    stop: threading.Event | None = None,
) -> SimulationReport:
    """Publish events to the pipeline's topics and return what was published.

    Parameters
    ----------
    on_batch
        Gets every batch before its first event is sent; of the last one, a run that is stopped may
        send only the beginning.
    stop
        Ends the run within a tenth of a second when set. As at every end, the labels of all events
        sent follow at once.

    Raises
    ------
    ConfigError
        If the pipeline has no simulator, or a topic is missing.
    BrokerUnavailable, RegistryUnavailable
        If Kafka or the registry does not answer.
    DeliveryFailed
        If a record could not be delivered.
    """
    name = pipeline.config.model.bootstrap.simulator
    if name is None:
        raise ConfigError(
            f"pipeline {pipeline.config.pipeline!r} has no simulator: set model.bootstrap.simulator"
        )
    began = time.monotonic()
    run = _Run(pipeline, connection, plan, make_generator(name, plan.seed))
    report = run.publish(progress, on_batch, stop or threading.Event())
    report.wall_s = time.monotonic() - began
    return report


class _Run:
    """One run: draws chunk by chunk, keeps the rate, holds back labels until their time."""

    def __init__(
        self,
        pipeline: LoadedPipeline,
        connection: Connection,
        plan: SimulationPlan,
        generator: EventGenerator,
    ) -> None:
        config = pipeline.config
        topics = config.topic_names
        self._plan = plan
        self._generator = generator
        self._topic = topics.events
        self._producer = ForeignProducer(connection)
        self._producer.check_topics([topics.events, topics.interactions])
        schema_id = register(connection, f"{topics.events}-value", pipeline.event_schema)
        self._write = avro_writer(pipeline.event_schema, schema_id)
        label_id = register(connection, f"{topics.interactions}-value", LABEL_SCHEMA)
        self._labels = LabelQueue(self._producer, topics.interactions, label_id)
        self._config = config
        self._rng = np.random.default_rng([plan.seed, 2])
        self._report = SimulationReport()
        self._started = 0.0
        self._now_ms = self._first_ms(pipeline, connection, schema_id)

    def _first_ms(self, pipeline: LoadedPipeline, connection: Connection, schema_id: int) -> int:
        if self._plan.start_ms is not None:
            return self._plan.start_ms
        delay_ms = int((self._plan.label_delay_s or 0.0) * _LATEST_LABEL * 1000)
        end_ms = time.time_ns() // 1_000_000 - delay_ms
        density = self._generator.events_per_s
        start_ms = self._generator.start_before(end_ms, self._plan.events, density)
        time_field = pipeline.config.event.time
        last_ms = last_event_ms(
            connection, self._topic, pipeline.event_schema, schema_id, time_field
        )
        return start_ms if last_ms is None else max(start_ms, last_ms)

    def publish(
        self, progress: Progress, on_batch: Watch, stop: threading.Event
    ) -> SimulationReport:
        """Send everything; labels still outstanding at the end follow at once."""
        report = self._report
        self._started = time.monotonic()
        while report.events < self._plan.events and not stop.is_set():
            batch = self._next_batch()
            report.start_ms = report.start_ms or int(batch.times_ms[0])
            on_batch(batch)
            self._send_batch(batch, progress, stop)
        report.labels += self._labels.send(until_ms=None)
        self._producer.flush()
        progress(report.events)
        return report

    def _next_batch(self) -> SimulatedBatch:
        n = min(CHUNK, self._plan.events - self._report.events)
        generator = self._generator
        batch = generator.generate(n, self._now_ms, generator.events_per_s, self._plan.drift)
        self._now_ms = batch.end_ms
        return batch

    def _send_batch(self, batch: SimulatedBatch, progress: Progress, stop: threading.Event) -> None:
        report = self._report
        rows = rows_of(batch.columns)
        spoiler = Spoiler(self._config, batch.columns.schema, self._write)
        kinds = draw_kinds(self._rng, len(batch), self._plan.bad_share, spoiler.kinds)
        labels = batch.labels.tolist()
        slice_rows = max(1, int(self._plan.rate * _SLICE_S)) if self._plan.rate else 1000
        for at in range(0, len(batch), slice_rows):
            if self._is_stopped_while_waiting(stop):
                return
            last = min(at + slice_rows, len(batch))
            for i in range(at, last):
                kind = kinds.get(i)
                self._send_event(batch, rows[i], i, spoiler.spoil(rows[i], kind) if kind else None)
            self._hold_labels(batch, at, last, kinds)
            report.positives += int(sum(labels[at:last]))
            report.end_ms = int(batch.times_ms[last - 1])
            report.labels += self._labels.send(until_ms=report.end_ms)
            self._producer.poll()
            progress(report.events)

    def _send_event(
        self, batch: SimulatedBatch, row: dict[str, Any], i: int, spoilt: SpoiltEvent | None
    ) -> None:
        if spoilt is not None:
            self._producer.send(self._topic, spoilt.key, spoilt.value)
            self._report.spoilt.append(spoilt)
            return
        self._producer.send(self._topic, batch.keys[i].encode(), self._write(row))
        self._report.good_ids.append(batch.event_ids[i])

    def _hold_labels(
        self, batch: SimulatedBatch, first: int, last: int, kinds: dict[int, str]
    ) -> None:
        """Take in the labels of the events sent; of one that cannot be predicted there is none."""
        delay_s = self._plan.label_delay_s
        if delay_s is None:
            return
        part = slice(first, last)
        times = batch.label_times_ms(delay_s)[part].tolist()
        held = zip(times, batch.event_ids[part], batch.labels[part].tolist(), strict=True)
        for i, (at_ms, event_id, label) in enumerate(held, start=first):
            kind = kinds.get(i)
            if kind is None or EXPECTED[kind] == "predicted":
                self._labels.add(at_ms, event_id, label)

    def _is_stopped_while_waiting(self, stop: threading.Event) -> bool:
        """Keep the rate, and return whether the run is to end."""
        if not self._plan.rate:
            return stop.is_set()
        due = self._started + self._report.events / self._plan.rate
        return stop.wait(max(0.0, due - time.monotonic()))


_TAIL: Final = 50
"""Records read back per partition: the last ones may be spoilt."""


def last_event_ms(
    connection: Connection, topic: str, schema_text: str, schema_id: int, time_field: str
) -> int | None:
    """Return the latest event time at the end of a topic, or None where there is none.

    Only records written with this very schema are looked at.

    Raises
    ------
    BrokerUnavailable
        If no broker answers.
    """
    consumer = Consumer(
        {
            **connection.kafka,
            "bootstrap.servers": connection.bootstrap_servers,
            "group.id": "penstock-simulator",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 3,
        }
    )
    try:
        values = _tail(consumer, topic)
    except KafkaException as exc:
        raise BrokerUnavailable(f"Kafka {connection.bootstrap_servers}: {exc.args[0]}") from exc
    finally:
        consumer.close()
    schema = fastavro.parse_schema(json.loads(schema_text))
    prefix = b"\x00" + schema_id.to_bytes(4, "big")
    times = [_time(v, schema, time_field) for v in values if v[:5] == prefix]
    return max((t for t in times if t is not None), default=None)


def _tail(consumer: Consumer, topic: str) -> list[bytes]:
    partitions = consumer.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic].partitions
    positions = []
    for partition in partitions:
        place = TopicPartition(topic, partition)
        low, high = consumer.get_watermark_offsets(place, timeout=REQUEST_TIMEOUT_S)
        if high > low:
            positions.append(TopicPartition(topic, partition, max(low, high - _TAIL)))
    consumer.assign(positions)
    values: list[bytes] = []
    open_ends = len(positions)
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while open_ends and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error() is not None:
            open_ends -= 1
        elif (value := message.value()) is not None:
            values.append(value)
    return values


def _time(value: bytes, schema: Any, time_field: str) -> int | None:
    """Return the event time of one record, or None if the record is spoilt."""
    try:
        row = fastavro.schemaless_reader(BytesIO(value[5:]), schema, None)
    except (EOFError, ValueError, IndexError, UnicodeDecodeError, OverflowError):
        return None
    return int(row[time_field].timestamp() * 1000)


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
        self._write = avro_writer(LABEL_SCHEMA, schema_id)
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


@dataclass(slots=True)
class SimulationReport:
    """What was published.

    Parameters
    ----------
    good_ids
        Ids of the events sent in good form, in order.
    spoilt
        The others, each with what must become of it.
    labels
        Interactions sent.
    positives
        Events sent whose truth is 1.
    start_ms, end_ms
        Simulated time of the first and last event.
    wall_s
        Time it took, seconds.
    """

    good_ids: list[str] = field(default_factory=list)
    spoilt: list[SpoiltEvent] = field(default_factory=list)
    labels: int = 0
    positives: int = 0
    start_ms: int = 0
    end_ms: int = 0
    wall_s: float = 0.0

    @property
    def events(self) -> int:
        """Number of events sent."""
        return len(self.good_ids) + len(self.spoilt)

    @property
    def events_per_s(self) -> float:
        """Events per second of wall-clock time."""
        return self.events / self.wall_s if self.wall_s else 0.0
