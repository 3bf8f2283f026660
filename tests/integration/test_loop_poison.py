"""A record that kills whoever reads it ends as a dead letter, and everything else goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from harness.loop import WorkerGroup
from penstock_schemas import headers
from penstock_streaming.poison import POISON_DEATHS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_a_record_that_keeps_killing_its_worker_is_poison(
    group: WorkerGroup, tmp_path: Path
) -> None:
    group.send(600)
    group.send_one(b"kill-1", 1)
    group.send(600, first=600)
    for _ in range(POISON_DEATHS):
        assert group.start(journal_dir=tmp_path).wait(60) == -signal.SIGKILL
    worker = group.start(journal_dir=tmp_path)
    group.await_end(60)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    group.assert_exactly_once()
    (dead,) = [m for m in group.read(group.dlq) if m.value() == b"kill-1"]
    assert dict(dead.headers() or [])[headers.DLQ_CLASS] == b"poison"
    assert not list(tmp_path.iterdir()), "a worker that ends by itself leaves no journal"
