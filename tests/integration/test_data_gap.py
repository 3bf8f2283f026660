"""A log that has lost records the group never read stops the loop, on a real broker."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from harness.kafka import delete_records
from harness.loop import TIMEOUT_S, MakeGroup, WorkerGroup
from harness.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def group(make_group: MakeGroup) -> WorkerGroup:
    """Return a group of one partition."""
    return make_group(partitions=1)


def stopped(worker: subprocess.Popen[bytes]) -> int:
    worker.terminate()
    return worker.wait(20)


def told(worker: subprocess.Popen[bytes], log: Path) -> str:
    """Return what a worker says that has ended by itself."""
    assert worker.wait(60) == 1
    return log.read_text()


def make_again(group: WorkerGroup) -> None:
    """Delete the input topic and create it anew."""
    admin = AdminClient({"bootstrap.servers": group.bootstrap})
    admin.delete_topics([group.topic])[group.topic].result(TIMEOUT_S)
    eventually(
        lambda: group.topic not in admin.list_topics(timeout=TIMEOUT_S).topics, 20, "it is gone"
    )
    admin.create_topics([NewTopic(group.topic, 1, 1)])[group.topic].result(TIMEOUT_S)
    group.sent.clear()


def test_retention_that_passes_the_group_stops_it_with_the_range(
    group: WorkerGroup, tmp_path: Path
) -> None:
    group.send(300)
    first = group.start()
    group.await_end(30)
    assert stopped(first) == 0
    group.send(300, first=300)
    delete_records(group.bootstrap, group.topic, 0, before=450)
    log = tmp_path / "second"
    assert "offsets 0: [300, 450): the log starts at 450" in told(group.start(log=log), log)
    assert group.committed() == {0: 300}


def test_a_topic_made_again_stops_the_group_though_its_offsets_fit(
    group: WorkerGroup, tmp_path: Path
) -> None:
    group.send(300)
    log = tmp_path / "worker"
    worker = group.start(log=log)
    group.await_end(30)
    make_again(group)
    group.send(600)
    text = told(worker, log)
    assert "data_gap" in text
    assert "made again" in text
