"""A log that has lost records the group never read stops the loop, on a real broker."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from harness.loop import TIMEOUT_S, LoopWorld
from harness.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def world(kafka_bootstrap: str) -> Iterator[LoopWorld]:
    """Return a world of one partition."""
    made = LoopWorld(kafka_bootstrap, partitions=1)
    yield made
    made.close()


def stopped(worker: subprocess.Popen[bytes]) -> int:
    worker.terminate()
    return worker.wait(20)


def told(worker: subprocess.Popen[bytes], log: Path) -> str:
    """Return what a worker says that has ended by itself."""
    assert worker.wait(60) == 1
    return log.read_text()


def make_again(world: LoopWorld) -> None:
    """Delete the input topic and create it anew."""
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    admin.delete_topics([world.topic])[world.topic].result(TIMEOUT_S)
    eventually(
        lambda: world.topic not in admin.list_topics(timeout=TIMEOUT_S).topics, 20, "it is gone"
    )
    admin.create_topics([NewTopic(world.topic, 1, 1)])[world.topic].result(TIMEOUT_S)
    world.sent.clear()


def test_retention_that_passes_the_group_stops_it_with_the_range(
    world: LoopWorld, tmp_path: Path
) -> None:
    world.send(300)
    first = world.start()
    world.await_end(30)
    assert stopped(first) == 0
    world.send(300, first=300)
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    place = TopicPartition(world.topic, 0, 450)
    admin.delete_records([place])[place].result(TIMEOUT_S)
    log = tmp_path / "second"
    assert "offsets 0: [300, 450): the log starts at 450" in told(world.start(log=log), log)
    assert world.committed() == {0: 300}


def test_a_topic_made_again_stops_the_group_though_its_offsets_fit(
    world: LoopWorld, tmp_path: Path
) -> None:
    world.send(300)
    log = tmp_path / "worker"
    worker = world.start(log=log)
    world.await_end(30)
    make_again(world)
    world.send(600)
    text = told(worker, log)
    assert "data_gap" in text
    assert "made again" in text
