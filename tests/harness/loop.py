"""The processing loop: on fakes, turned by hand, and as worker processes on a real broker.

`FakeLoop` is the loop on fakes. `WorkerGroup` is a consumer group on topics of its own: events,
workers (`copy_worker.py`), and the verdict on what they have written.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from harness.kafka import Isolation, await_transactions, delete_topics, read_topic
from harness.kills import tests_path, wrapper
from harness.waiting import eventually
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
class FakeLoop:
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
        self.processor._duties_due_at = 0.0
        self.turn()

    def started(self, *partitions: int) -> FakeLoop:
        self.consumer.assign(*(partitions or (0,)))
        self.turn(2)
        return self

    def feed(self, *values: bytes | None, partition: int = 0) -> None:
        for value in values:
            self.broker.add(IN, value, partition=partition, timestamp_ms=1_000)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, {"topic": IN, **labels}) or 0.0


MakeLoop = Callable[..., FakeLoop]


TIMEOUT_S = 20.0
OPEN_TRANSACTION_S = 40.0
"""A dead worker's transaction lives for its time-out and until the broker looks, 10 s each."""
DEAD = (b"bad", b"kill")
"""Values that end as dead letters."""
WORKER = Path(__file__).with_name("copy_worker.py")
ANY_TIME = {
    "message.timestamp.before.max.ms": "9223372036854775807",
    "message.timestamp.after.max.ms": "9223372036854775807",
    "retention.ms": "-1",
}
"""As the topics of events have it: else records that are dated long ago may be deleted unread."""


@dataclass
class WorkerGroup:
    """One input topic with its outputs and the workers on it."""

    bootstrap: str
    partitions: int = 3
    topic: str = field(default_factory=lambda: f"loop-{uuid.uuid4().hex[:10]}")
    sent: list[tuple[int, bytes | None]] = field(default_factory=list)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.out, self.dlq, self.state = (f"{self.topic}.{n}" for n in ("out", "dlq", "state"))
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        topics = [
            NewTopic(name, self.partitions, 1, config=ANY_TIME if name != self.out else {})
            for name in (self.topic, self.out, self.dlq, self.state)
        ]
        for done in admin.create_topics(topics).values():
            done.result(TIMEOUT_S)
        # Idempotent: a retry must not change the order that the tests expect.
        self._producer = Producer(
            {"bootstrap.servers": self.bootstrap, "linger.ms": 5, "enable.idempotence": True}
        )

    def send(self, count: int, *, first: int = 0) -> None:
        """Produce unique events round robin; every 50th is bad, every 97th a tombstone."""
        for i in range(first, first + count):
            value = None if i % 97 == 96 else b"%s-%d" % (b"bad" if i % 50 == 49 else b"event", i)
            partition = i % self.partitions
            self._producer.produce(self.topic, value, b"key-%d" % (i % 20), partition)
            self.sent.append((partition, value))
            self._producer.poll(0)
        assert self._producer.flush(TIMEOUT_S) == 0

    def send_one(self, value: bytes, partition: int) -> None:
        """Produce one event."""
        self._producer.produce(self.topic, value, b"key", partition)
        self.sent.append((partition, value))
        assert self._producer.flush(TIMEOUT_S) == 0

    def start(
        self, fail_point: str = "", *, log: Path | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a worker; what it says goes to ``log`` where that is given."""
        arguments = [sys.executable, str(WORKER), "--bootstrap", self.bootstrap]
        arguments += ["--topic", self.topic, "--incarnation", str(len(self.workers))]
        for name, value in options.items():
            arguments += [f"--{name.replace('_', '-')}", str(value)]
        if fail_point:
            arguments += ["--wrapper", wrapper(fail_point)]
        environment = {**os.environ, **tests_path()}
        with log.open("wb") if log else nullcontext() as said:
            worker = subprocess.Popen(
                arguments, env=environment, start_new_session=True, stdout=said, stderr=said
            )
        self.workers.append(worker)
        return worker

    def read(self, topic: str, isolation: Isolation = "read_committed") -> list[Message]:
        """Return all records of a topic, once the transactions that are open now have ended."""
        await_transactions(self.bootstrap, topic, OPEN_TRANSACTION_S)
        return read_topic(self.bootstrap, topic, isolation)

    def aborted(self) -> int:
        """Return how many produced outputs never became visible."""
        return len(self.read(self.out, "read_uncommitted")) - len(self.read(self.out))

    def expected(self) -> dict[int, list[bytes]]:
        """Return the values of each output partition, in order."""
        expected: dict[int, list[bytes]] = defaultdict(list)
        for partition, value in self.sent:
            if value is not None and not value.startswith(DEAD):
                expected[partition].append(value + b"#%d" % len(expected[partition]))
        return expected

    def dead(self) -> list[bytes]:
        """Return the values that must be dead letters."""
        return sorted(value for _, value in self.sent if value and value.startswith(DEAD))

    def committed(self) -> dict[int, int]:
        """Return the group's offsets."""
        with Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.topic}) as consumer:
            places = [TopicPartition(self.topic, p) for p in range(self.partitions)]
            return {tp.partition: tp.offset for tp in consumer.committed(places, TIMEOUT_S)}

    def await_end(self, deadline_s: float) -> None:
        """Wait until everything that was sent is committed."""
        ends = Counter(partition for partition, _ in self.sent)
        eventually(lambda: self.committed() == dict(ends), deadline_s, "all is committed")

    def assert_exactly_once(self) -> None:
        """Check outputs, their order, the numbering by the state, and the dead letters."""
        found: dict[int, list[bytes]] = defaultdict(list)
        for message in self.read(self.out):
            found[message.partition() or 0].append(message.value() or b"")
        expected = self.expected()
        for partition in range(self.partitions):
            got, want = found[partition], expected[partition]
            twice = [value for value, n in Counter(got).items() if n > 1]
            assert not twice, f"duplicates in {partition}: {twice[:20]}"
            if got != want:
                at = next(
                    (
                        i
                        for i, pair in enumerate(zip(got, want, strict=False))
                        if len(set(pair)) > 1
                    ),
                    -1,
                )
                raise AssertionError(
                    f"{partition}: {len(got)} for {len(want)}; from {at}: {got[at : at + 5]} for "
                    f"{want[at : at + 5]}"
                )
        assert sorted(m.value() or b"" for m in self.read(self.dlq)) == self.dead()

    def close(self) -> None:
        """End the workers and delete the topics."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
                worker.wait(TIMEOUT_S)
        delete_topics(self.bootstrap, [self.topic, self.out, self.dlq, self.state])


MakeGroup = Callable[..., WorkerGroup]
