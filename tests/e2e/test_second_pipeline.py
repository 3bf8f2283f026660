"""A pipeline that is a folder and nothing else runs beside the first one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from harness.clients import ProducerApp, Published
from harness.judges import LedgerRun
from harness.models import NAME, readings
from harness.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def test_folder_alone_becomes_predictions(
    stack: Stack, tiny_folder: Path, kafka_bootstrap: str, registry_url: str, seed: int
) -> None:
    run = LedgerRun(kafka_bootstrap, registry_url, NAME)
    app = ProducerApp(
        kafka_bootstrap, registry_url, run.topics.events, tiny_folder / "event.avsc", "pump_id"
    )
    rows = list(readings(random.Random(seed), 2_000))
    published = app.publish(((row, None) for row in rows), Published())
    run.drain(90)
    report = run.report(published)
    assert report.ok, str(report)
    assert report.predictions == len(rows)
    decisions = {p["event_id"]: p["decision"] for p in run.decoded("predictions")}
    right = sum(decisions[row["event_id"]] == (row["vibration"] > 5.0) for row in rows)
    assert right / len(rows) > 0.95, "the model of the folder's own data predicts"
