"""The loop in this process on a real broker: lost answers, rivals, outages, control records."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from harness.copy_worker import NumberingCopy
from harness.loop import WorkerGroup
from harness.waiting import eventually
from penstock_schemas.errors import FencedError, ModelUnavailable
from penstock_streaming.clients import ConfluentClients
from penstock_streaming.handler import MessageBatch, PendingBatch
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.processor import Processor
from penstock_streaming.settings import KafkaSettings, LoopSettings
from prometheus_client import CollectorRegistry

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

EVENTS = 3_000
CALLS = ("send_offsets_to_transaction", "commit_transaction")


class DeafProducer:
    """A real producer that loses every third answer, though the broker may have acted."""

    def __init__(self, real: Any, call: str, losses: list[bool]) -> None:
        self._real = real
        self._call = call
        self._losses = losses
        self._calls = 0

    def __getattr__(self, name: str) -> Any:
        return self._lossy if name == self._call else getattr(self._real, name)

    def _lossy(self, *arguments: Any) -> None:
        self._calls += 1
        is_lost = self._calls % 3 == 0 and self._losses
        if not is_lost or self._losses[-1]:
            getattr(self._real, self._call)(*arguments)
        if is_lost:
            self._losses.pop()
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "answer lost"))


@dataclass
class DeafClients(ConfluentClients):
    """Makes deaf producers that share one list of losses to come (True: done nevertheless)."""

    call: str = ""
    losses: list[bool] = field(default_factory=list)

    def producer(self, config: dict[str, Any]) -> Any:
        real = super().producer(config)
        return DeafProducer(real, self.call, self.losses) if self.call else real


class Runner:
    """A loop in a thread of this process."""

    def __init__(
        self, group: WorkerGroup, handler: Any = None, clients: Any = None, **settings: Any
    ) -> None:
        kafka = KafkaSettings(bootstrap_servers=group.bootstrap)
        self.registry = CollectorRegistry()
        self.topic = group.topic
        self.processor = Processor(
            kafka=kafka,
            group_id=group.topic,
            input_topic=group.topic,
            handler=handler or NumberingCopy(kafka, group.topic),
            service="copy",
            transactional_id=f"{group.topic}-id",
            loop=LoopSettings(
                **{
                    "max_batch_rows": 100,
                    "max_transaction_rows": 200,
                    "session_timeout_s": 6.0,
                    **settings,
                }
            ),
            metrics=LoopMetrics(self.registry),
            clients=clients,
        )
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.processor.run()
        except BaseException as exc:
            self.error = exc

    def stop(self) -> None:
        self.processor.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, {"topic": self.topic, **labels}) or 0.0


MakeRunner = Callable[..., Runner]


@pytest.fixture
def run(group: WorkerGroup) -> Iterator[MakeRunner]:
    made: list[Runner] = []

    def make(**facts: Any) -> Runner:
        made.append(Runner(group, **facts))
        return made[-1]

    yield make
    for runner in made:
        runner.stop()


@pytest.mark.parametrize("call", CALLS)
def test_lost_answers_neither_lose_nor_double(
    group: WorkerGroup, run: MakeRunner, call: str
) -> None:
    clients = DeafClients(call, [True, False, True, False])
    group.send(EVENTS)
    runner = run(clients=clients)
    group.await_end(60)
    runner.stop()
    assert runner.error is None
    assert clients.losses == []
    assert runner.count("penstock_transactions_total", result="recreated") == 4
    group.assert_exactly_once()


def test_a_rival_for_our_id_is_fenced_in_turn(group: WorkerGroup, run: MakeRunner) -> None:
    group.send(EVENTS)
    runner = run(max_transaction_rows=100)
    eventually(lambda: sum(group.committed().values()) > 0, 30, "the loop works")
    rival = Producer(
        {"bootstrap.servers": group.bootstrap, "transactional.id": f"{group.topic}-id"}
    )
    rival.init_transactions(20)
    group.send(EVENTS, first=EVENTS)
    group.await_end(60)
    runner.stop()
    assert runner.error is None
    # The rival's own attempts go on while ours do: each may be fenced more than once.
    assert 1 <= runner.count("penstock_transactions_total", result="recreated") <= 3
    group.assert_exactly_once()


def test_a_fenced_worker_without_budget_exits(group: WorkerGroup, run: MakeRunner) -> None:
    group.send(100)
    runner = run(fenced_budget=0)
    group.await_end(30)
    rival = Producer(
        {"bootstrap.servers": group.bootstrap, "transactional.id": f"{group.topic}-id"}
    )
    rival.init_transactions(20)
    group.send(100, first=100)
    runner.thread.join(30)
    assert isinstance(runner.error, FencedError)


class AwayFor:
    """A handler whose dependency is away for its first calls."""

    def __init__(self, real: NumberingCopy, attempts: int) -> None:
        self._real = real
        self.left = attempts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def submit(self, batch: MessageBatch) -> PendingBatch:
        if self.left > 0:
            self.left -= 1
            raise ModelUnavailable("away", retry_after_s=1.0)
        return self._real.submit(batch)


def test_an_outage_is_waited_out_without_a_rebalance_or_a_dead_letter(
    group: WorkerGroup, run: MakeRunner
) -> None:
    kafka = KafkaSettings(bootstrap_servers=group.bootstrap)
    group.send(EVENTS)
    handler = AwayFor(NumberingCopy(kafka, group.topic), 6)
    runner = run(handler=handler, retry_max_wait_s=2.0)
    eventually(lambda: handler.left < 5, 20, "the outage has begun")
    assert not runner.processor.ready
    group.await_end(60)
    assert runner.processor.ready
    assert runner.count("penstock_rebalances_total", kind="assigned") == 1
    runner.stop()
    group.assert_exactly_once()


def test_lag_gets_to_zero_behind_control_records(group: WorkerGroup, run: MakeRunner) -> None:
    source = Producer(
        {"bootstrap.servers": group.bootstrap, "transactional.id": f"{group.topic}-source"}
    )
    source.init_transactions(20)
    for i, is_kept in enumerate((True, True, False)):
        source.begin_transaction()
        for p in range(group.partitions):
            source.produce(group.topic, b"event-%d" % i, b"k", p)
            if is_kept:
                group.sent.append((p, b"event-%d" % i))
        source.flush(20)
        source.commit_transaction(20) if is_kept else source.abort_transaction(20)
    runner = run()
    # Per partition: three records with a marker each.
    want = dict.fromkeys(range(group.partitions), 6)
    eventually(lambda: group.committed() == want, 30, "positions are past the markers")

    def has_no_lag() -> bool:
        backlog = runner.processor.backlog
        return backlog.measured == len(want) and backlog.flow.lag == 0

    eventually(has_no_lag, 20, "lag is zero")
    runner.stop()
    group.assert_exactly_once()


def test_nothing_is_left_running_after_stop(group: WorkerGroup, run: MakeRunner) -> None:
    group.send(100)
    before = tasks()
    runner = run()
    group.await_end(30)
    runner.stop()
    eventually(lambda: tasks() <= before, 10, "the clients' threads are gone")


def tasks() -> int:
    """Return the threads of this process, the clients' own among them."""
    return len(os.listdir("/proc/self/task"))


def test_at_least_once_loses_nothing(group: WorkerGroup, run: MakeRunner) -> None:
    group.send(EVENTS)
    runner = run(delivery="at_least_once")
    group.await_end(60)
    runner.stop()
    assert runner.error is None
    group.assert_exactly_once()
