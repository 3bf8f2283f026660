"""Bad records: a few are dead letters, a flood closes its partition, and no other one suffers."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest
from confluent_kafka import KafkaError, Message, Producer
from harness.clients import Published
from harness.fault_pipeline import FaultWindow, ServedPipeline, now_ms
from harness.judges import scrape, total
from harness.stack import free_port
from harness.waiting import eventually, holds_for

MakePipeline = Callable[..., ServedPipeline]
pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BACK_S = 60.0
POISONED, SOUND = 0, 1
METRIC = "penstock_dead_letter_breaker_open"
NO_LIMITS = "limits: {max_dead_letters_in_row: 0, max_dead_letter_share: 0}\n"


class Feed:
    """Sends events to partitions of its choice, some of them bad.

    Parameters
    ----------
    seed
        Of the events and of which are bad.
    """

    def __init__(self, pipeline: ServedPipeline, published: Published, seed: int) -> None:
        self.pipeline, self.published = pipeline, published
        self._rng = random.Random(seed)
        self._seed = seed
        self._producer = Producer(
            {"bootstrap.servers": pipeline.addresses.kafka, "enable.idempotence": True}
        )

    def send(self, partition: int, count: int, bad_share: float) -> None:
        """Send events to a partition, a share of them cut short."""
        for row, _ in self.pipeline.rows(count, self._seed):
            value, is_bad = self.pipeline.producer.encode(row), self._rng.random() < bad_share
            self.published.events += 1
            self._producer.produce(
                self.pipeline.topics.events,
                value[:-3] if is_bad else value,
                row["pump_id"].encode(),
                partition,
                timestamp=now_ms(),
                on_delivery=partial(self._delivered, is_bad),
            )
        assert self._producer.flush(BACK_S) == 0
        assert not self.published.errors

    def _delivered(self, is_bad: bool, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.published.errors.append(str(error))
        elif is_bad:
            self.published.bad[message.partition() or 0, message.offset() or 0] = "decode"


@pytest.mark.faults
@pytest.mark.parametrize("share", [0.01, 0.1])
def test_some_bad_records_are_dead_letters_and_no_more(
    pipeline: ServedPipeline, seed: int, share: float
) -> None:
    pipeline.start_ingest()
    router = pipeline.started_router()
    with FaultWindow(pipeline, f"F31 {share:.0%}", seed) as window:
        feed = Feed(pipeline, window.published, seed)
        feed.send(POISONED, 3_000, share)
        feed.send(SOUND, 3_000, 0.0)
        report = window.judge()
        window.note(f"dead letters {report.dead_letters}")
    assert 3_000 * share / 2 < report.dead_letters["decode"] < 3_000 * share * 2
    assert router.stop() == 0


def test_flood_of_bad_records_closes_its_partition_until_it_is_let_through(
    pipeline: ServedPipeline, seed: int
) -> None:
    port = free_port()
    ingest = pipeline.start_ingest(PENSTOCK_INGEST_METRICS_PORT=str(port))
    router = pipeline.started_router()

    def is_open(partition: int) -> bool:
        found = scrape(f"http://127.0.0.1:{port}/metrics")
        return bool(total(found, METRIC, topic=pipeline.topics.events, partition=str(partition)))

    with FaultWindow(pipeline, "F31 100 %", seed) as window:
        feed, run = Feed(pipeline, window.published, seed), window.run
        feed.send(POISONED, 500, 0.0)
        feed.send(POISONED, 3_000, 1.0)
        eventually(lambda: is_open(POISONED), BACK_S, "the breaker is open")
        feed.send(SOUND, 2_000, 0.01)
        eventually(lambda: committed(window, SOUND) == 2_000, BACK_S, "the other one goes on")
        assert not is_open(SOUND)
        stopped = committed(window, POISONED)
        holds_for(lambda: committed(window, POISONED) == stopped, 5.0, "it stays closed")
        in_dlq = sum(r.partition == POISONED for r in run.records("events_dlq"))
        window.note(f"closed at {stopped} of 3500, {in_dlq} of 3000 in the dead letters")
        assert stopped <= 500 + 50
        assert in_dlq <= 50, "the topic is drained into the dead letters"
        let_through(pipeline)
        window.ended("limits lifted")
        eventually(lambda: not is_open(POISONED), BACK_S, "the breaker closes")
        report = window.judge()
    assert report.dead_letters["decode"] >= 3_000
    assert ingest.poll() is None
    assert router.stop() == 0


def committed(window: FaultWindow, partition: int) -> int:
    """Return how far ingest has come in a partition."""
    run = window.run
    name = run.topics.name("events")
    return run.client.committed(run.topics.group("ingest"), name).get(partition, 0)


def let_through(pipeline: ServedPipeline) -> None:
    """Lift the limits in pipeline.yaml, while the service runs."""
    file = pipeline.loaded.folder / "pipeline.yaml"
    file.write_text(file.read_text() + NO_LIMITS)
