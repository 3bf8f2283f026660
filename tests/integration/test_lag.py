"""Lag and drain time of a loop on a real broker: control records, open and aborted transactions."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from confluent_kafka import Producer
from harness.loop import MakeGroup, WorkerGroup
from harness.waiting import eventually
from penstock_streaming.handler import HandledBatch, MessageBatch, StatelessHandler
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.processor import Processor
from penstock_streaming.settings import KafkaSettings, LoopSettings
from prometheus_client import CollectorRegistry

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

WAIT_S = 15.0


@dataclass
class Waiting:
    """A batch that is done when the gate is open."""

    gate: threading.Event
    rows: int

    def done(self, within_s: float = 0.0) -> bool:
        return self.gate.wait(within_s)

    def result(self, timeout_s: float) -> HandledBatch:
        assert self.gate.wait(timeout_s)
        return HandledBatch([], skipped={"dropped": self.rows})


class Dropped(StatelessHandler):
    """Skips every record; a gate holds it back."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def submit(self, batch: MessageBatch) -> Waiting:
        return Waiting(self.gate, len(batch))

    def committed(self) -> None:
        """Do nothing."""

    def assigned(self, partitions: Sequence[int], deadline_s: float) -> None:
        """Do nothing."""

    def revoked(self, partitions: Sequence[int]) -> None:
        """Do nothing."""

    def rolled_back(self, partitions: Sequence[int], deadline_s: float) -> None:
        """Do nothing."""


@pytest.fixture
def group(make_group: MakeGroup) -> WorkerGroup:
    return make_group(partitions=2)


@pytest.fixture
def upstream(group: WorkerGroup) -> Producer:
    """Return a producer that writes in transactions, as ingest does."""
    producer = Producer(
        {"bootstrap.servers": group.bootstrap, "transactional.id": f"up-{uuid.uuid4().hex}"}
    )
    producer.init_transactions(WAIT_S)
    return producer


def write(producer: Producer, topic: str, records: int, *, commit: bool = True) -> None:
    """Write one transaction; each partition gets its control record."""
    producer.begin_transaction()
    for i in range(records):
        producer.produce(topic, b"v", partition=i % 2)
    producer.flush(WAIT_S)
    producer.commit_transaction(WAIT_S) if commit else producer.abort_transaction(WAIT_S)


@contextmanager
def running(group: WorkerGroup, handler: Dropped) -> Iterator[Processor]:
    """Run a loop on the group's topic in a thread."""
    processor = Processor(
        kafka=KafkaSettings(bootstrap_servers=group.bootstrap),
        group_id=group.topic,
        input_topic=group.topic,
        handler=handler,
        service="lag",
        transactional_id=f"lag-{uuid.uuid4().hex}",
        loop=LoopSettings(statistics_interval_s=0.5),
        metrics=LoopMetrics(CollectorRegistry()),
    )
    thread = threading.Thread(target=processor.run)
    thread.start()
    try:
        yield processor
    finally:
        handler.gate.set()
        processor.stop()
        thread.join(WAIT_S)
        assert not thread.is_alive()


def is_drained(processor: Processor) -> Callable[[], bool]:
    def check() -> bool:
        found = processor.backlog
        measured = found.measured == found.owned == found.partitions == 2
        return measured and found.flow.lag == 0 and found.flow.drain_s == 0.0

    return check


def test_lag_gets_to_zero_past_the_control_records_of_many_small_transactions(
    group: WorkerGroup, upstream: Producer
) -> None:
    for _ in range(20):
        write(upstream, group.topic, 2)
    write(upstream, group.topic, 2, commit=False)
    with running(group, Dropped()) as processor:
        eventually(is_drained(processor), WAIT_S, "nothing is left")
    # Nobody consumes these, and nothing was committed since they were written.
    write(upstream, group.topic, 4, commit=False)
    with running(group, Dropped()) as processor:
        eventually(is_drained(processor), WAIT_S, "nothing is left for the heir either")


def test_records_of_an_open_transaction_are_not_lag_and_committed_ones_are(
    group: WorkerGroup, upstream: Producer
) -> None:
    handler = Dropped()
    with running(group, handler) as processor:
        eventually(lambda: processor.backlog.owned == 2, WAIT_S, "it has its partitions")
        write(upstream, group.topic, 2)
        eventually(is_drained(processor), WAIT_S, "nothing is left")
        handler.gate.clear()
        upstream.begin_transaction()
        for i in range(100):
            upstream.produce(group.topic, b"v", partition=i % 2)
        upstream.flush(WAIT_S)
        eventually(is_drained(processor), WAIT_S, "an open transaction is no work yet")
        upstream.commit_transaction(WAIT_S)
        eventually(lambda: processor.backlog.flow.lag >= 100, WAIT_S, "it is work now")
        handler.gate.set()
        eventually(is_drained(processor), WAIT_S, "it is done")


def test_a_backlog_that_is_not_worked_on_never_drains(group: WorkerGroup) -> None:
    handler = Dropped()
    with running(group, handler) as processor:
        group.send(200)
        eventually(is_drained(processor), WAIT_S, "nothing is left")
        handler.gate.clear()
        group.send(20_000, first=200)
        eventually(
            lambda: processor.backlog.flow.drain_s == math.inf, WAIT_S, "it does not get less"
        )
        handler.gate.set()
        eventually(is_drained(processor), WAIT_S, "nothing is left again")
