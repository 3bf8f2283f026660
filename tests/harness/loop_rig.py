"""A loop on fakes that a test turns by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock_schemas.errors import RecordError
from penstock_streaming.handler import (
    Completed,
    HandledBatch,
    MessageBatch,
    OutputColumns,
    PendingBatch,
    StatelessHandler,
)
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.processor import Processor
from penstock_streaming.settings import KafkaSettings, LoopSettings
from penstock_streaming.testing import FakeBroker, FakeClients, FakeConsumer, FakeProducer
from prometheus_client import CollectorRegistry

IN = "p.events.v1"
OUT = "p.features.v1"
DLQ = "p.events.v1.dlq"


def copied(batch: MessageBatch, dead: Sequence[tuple[int, RecordError]] = ()) -> HandledBatch:
    """Return every row as an output, but for the dead ones."""
    gone = {row for row, _ in dead}
    kept = [row for row in range(len(batch)) if row not in gone]
    columns = OutputColumns(
        OUT,
        [batch.keys[row] for row in kept],
        [batch.values[row] for row in kept],
        [int(batch.partitions[row]) for row in kept],
        rows=kept,
    )
    return HandledBatch([columns], list(dead), terminal=len(kept))


class Answer:
    """A pending batch that a test completes by hand."""

    def __init__(self, batch: MessageBatch) -> None:
        self.batch = batch
        self.is_done = False
        self.error: Exception | None = None

    def done(self, within_s: float = 0.0) -> bool:
        return self.is_done

    def result(self, timeout_s: float) -> HandledBatch:
        if self.error is not None:
            raise self.error
        return copied(self.batch)


class Recorder:
    """What both handlers remember."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.errors: list[Exception] = []
        self.answers: list[Answer] | None = None
        self.handle: Callable[[MessageBatch], HandledBatch] = copied

    def submit(self, batch: MessageBatch) -> PendingBatch:
        self.events.append(("submit", list(batch.values)))
        if self.errors:
            raise self.errors.pop(0)
        if self.answers is None:
            return Completed(self.handle(batch))
        answer = Answer(batch)
        self.answers.append(answer)
        return answer

    def named(self, name: str) -> list[Any]:
        return [facts for event, facts in self.events if event == name]

    def committed(self) -> None:
        self.events.append(("committed", None))

    def assigned(self, partitions: Sequence[int], deadline_s: float) -> None:
        self.events.append(("assigned", list(partitions)))

    def revoked(self, partitions: Sequence[int]) -> None:
        self.events.append(("revoked", list(partitions)))

    def rolled_back(self, partitions: Sequence[int], deadline_s: float) -> None:
        self.events.append(("rolled_back", list(partitions)))


class Stateless(Recorder, StatelessHandler):
    """May overlap with a commit."""


class Stateful(Recorder):
    """Produces a state change per commit."""

    def changelog(self) -> Sequence[OutputColumns]:
        self.events.append(("changelog", None))
        return [OutputColumns("p.state", [b"k"], [b"s"], [0])]


@dataclass
class Rig:
    """Broker, handler and loop of one test."""

    handler: Recorder
    loop: LoopSettings
    broker: FakeBroker = field(default_factory=FakeBroker)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.clients = FakeClients(self.broker)
        self.wanted = self.loop
        self.processor = Processor(
            kafka=KafkaSettings(),
            group_id="g",
            input_topic=IN,
            handler=self.handler,  # type: ignore[arg-type]
            service="test",
            transactional_id="t",
            loop=self.loop,
            metrics=LoopMetrics(self.registry),
            retune=lambda: self.wanted,
            clients=self.clients,
        )
        self.processor._consumer.subscribe()

    @property
    def consumer(self) -> FakeConsumer:
        return self.clients.consumers[0]

    @property
    def producer(self) -> FakeProducer:
        return self.clients.producers[-1]

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.processor._guarded_turn()

    def retune(self, **settings: Any) -> None:
        """Change settings, and have the loop see it."""
        self.wanted = self.wanted.model_copy(update=settings)
        self.processor._house._due_at = 0.0
        self.turn()

    def started(self, *partitions: int) -> Rig:
        self.consumer.assign(*(partitions or (0,)))
        self.turn(2)
        return self

    def feed(self, *values: bytes | None, partition: int = 0) -> None:
        for value in values:
            self.broker.add(IN, value, partition=partition, timestamp_ms=1_000)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, {"topic": IN, **labels}) or 0.0


MakeRig = Callable[..., Rig]
