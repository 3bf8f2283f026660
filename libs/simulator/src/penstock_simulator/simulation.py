"""Publish simulated events and, later, their labels: what a producer application does."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from penstock_pipelines.loader import LoadedPipeline
from penstock_schemas.errors import ConfigError
from penstock_schemas.schema_files import schema_text

from penstock_simulator.bad_events import EXPECTED, Spoiler, SpoiltEvent, draw_kinds
from penstock_simulator.foreign_producer import Connection, ForeignProducer, register
from penstock_simulator.generators import Drift, EventGenerator, SimulatedBatch, make_generator
from penstock_simulator.simulated_clock import last_event_ms
from penstock_simulator.wire import Row, avro_writer, rows_of

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
        Number of events.
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
        Events with label 1.
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


Progress = Callable[[int], None]
"""Called with the number of events sent so far."""


def simulate(
    pipeline: LoadedPipeline,
    connection: Connection,
    plan: SimulationPlan,
    progress: Progress = lambda sent: None,
) -> SimulationReport:
    """Publish events to the pipeline's topics and return what was published.

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
    report = run.publish(progress)
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
        self._plan = plan
        self._generator = generator
        self._topics = config.topic_names
        self._producer = ForeignProducer(connection)
        self._producer.check_topics([self._topics.events, self._topics.interactions])
        schema_id = register(connection, f"{self._topics.events}-value", pipeline.event_schema)
        self._write = avro_writer(pipeline.event_schema, schema_id)
        self._write_label = _label_writer(connection, self._topics.interactions)
        self._config = config
        self._rng = np.random.default_rng([plan.seed, 2])
        self._waiting: list[tuple[int, str, float]] = []
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
        last_ms = last_event_ms(
            connection,
            self._topics.events,
            pipeline.event_schema,
            schema_id,
            pipeline.config.event.time,
        )
        return start_ms if last_ms is None else max(start_ms, last_ms)

    def publish(self, progress: Progress) -> SimulationReport:
        """Send everything; labels still outstanding at the end follow at once."""
        report = self._report
        self._started = time.monotonic()
        while report.events < self._plan.events:
            batch = self._next_batch()
            report.start_ms = report.start_ms or int(batch.times_ms[0])
            report.end_ms = batch.end_ms
            self._send_batch(batch, progress)
        self._send_labels(until_ms=None)
        self._producer.flush()
        progress(report.events)
        return report

    def _next_batch(self) -> SimulatedBatch:
        n = min(CHUNK, self._plan.events - self._report.events)
        generator = self._generator
        batch = generator.generate(n, self._now_ms, generator.events_per_s, self._plan.drift)
        self._now_ms = batch.end_ms
        self._report.positives += int(batch.labels.sum())
        return batch

    def _send_batch(self, batch: SimulatedBatch, progress: Progress) -> None:
        rows = rows_of(batch.columns)
        spoiler = Spoiler(self._config, batch.columns.schema, self._write)
        kinds = draw_kinds(self._rng, len(batch), self._plan.bad_share, spoiler.kinds)
        label_times = batch.label_times_ms(self._plan.label_delay_s or 0.0).tolist()
        labels = batch.labels.tolist()
        times = batch.times_ms.tolist()
        slice_rows = max(1, int(self._plan.rate * _SLICE_S)) if self._plan.rate else 1000
        for at in range(0, len(batch), slice_rows):
            self._keep_rate()
            last = min(at + slice_rows, len(batch))
            for i in range(at, last):
                kind = kinds.get(i)
                self._send_event(batch, rows[i], i, spoiler.spoil(rows[i], kind) if kind else None)
                if kind is None or EXPECTED[kind] == "predicted":
                    heapq.heappush(self._waiting, (label_times[i], batch.event_ids[i], labels[i]))
            self._send_labels(until_ms=times[last - 1])
            self._producer.poll()
            progress(self._report.events)

    def _send_event(
        self, batch: SimulatedBatch, row: dict[str, Any], i: int, spoilt: SpoiltEvent | None
    ) -> None:
        if spoilt is not None:
            self._producer.send(self._topics.events, spoilt.key, spoilt.value)
            self._report.spoilt.append(spoilt)
            return
        self._producer.send(self._topics.events, batch.keys[i].encode(), self._write(row))
        self._report.good_ids.append(batch.event_ids[i])

    def _send_labels(self, until_ms: int | None) -> None:
        if self._plan.label_delay_s is None:
            self._waiting.clear()
        while self._waiting and (until_ms is None or self._waiting[0][0] <= until_ms):
            at_ms, event_id, label = heapq.heappop(self._waiting)
            interaction = {"event_id": event_id, "label": label, "occurred_at": at_ms}
            value = self._write_label(interaction)
            self._producer.send(self._topics.interactions, event_id.encode(), value)
            self._report.labels += 1

    def _keep_rate(self) -> None:
        if self._plan.rate:
            due = self._started + self._report.events / self._plan.rate
            time.sleep(max(0.0, due - time.monotonic()))


def _label_writer(connection: Connection, topic: str) -> Callable[[Row], bytes]:
    schema = schema_text("interaction.avsc")
    return avro_writer(schema, register(connection, f"{topic}-value", schema))
