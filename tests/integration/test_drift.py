"""The drift service as a process, on a real broker, registry and tracking server.

What it must find is computed apart from it: the pure core over the observations in the log.
"""

from __future__ import annotations

import json
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer
from harness.drift import (
    WAIT_S,
    DriftService,
    Stream,
    delete_model,
    drift_service,
    log_model,
    make_stream,
    make_training_reference,
)
from harness.kills import kill_loop
from harness.waiting import eventually
from penstock_drift.monitor import DriftMonitor
from penstock_monitoring.observations import Observations, observations_of
from penstock_monitoring.quality import auc
from penstock_monitoring.reference import Reference
from penstock_schemas.codec import ColumnarDecoder
from penstock_schemas.records import DriftEvent, RetrainEvent
from penstock_schemas.schema_files import schema_text

ROWS = 12_000
CHANGE = 6_000
STEP = 1_000
SECTIONS = {
    "monitor": {"window_rows": 1000, "evidence_labels": 500},
    "batching": {"max_batch_rows": 500},
}
SMALL = {
    "PENSTOCK_DRIFT_LOOP__COMMIT_INTERVAL_S": "0.1",
    "PENSTOCK_DRIFT_LOOP__MAX_TRANSACTION_ROWS": "1000",
    "PENSTOCK_DRIFT_SNAPSHOT_EVERY_S": "0.5",
}
pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


@pytest.fixture
def service(
    kafka_bootstrap: str, registry_url: str, mlflow_url: str, tmp_path: Path
) -> Iterator[DriftService]:
    with drift_service(kafka_bootstrap, registry_url, mlflow_url, tmp_path, SECTIONS) as made:
        yield made


def log_in_topic(service: DriftService) -> Observations:
    """Return all committed observations, by offset; none may be there twice."""
    messages = service.read(service.topics.observations, 2 * ROWS)
    text = schema_text("observation.avsc")
    decoded = ColumnarDecoder(text, lambda _: text).decode([m.value() for m in messages])
    assert not decoded.errors
    offsets = np.array([m.offset() for m in messages], np.int64)
    found = observations_of(decoded.columns, offsets)
    assert [m.key().decode() for m in messages] == found.ids
    is_label = np.isnan(found.scores).tolist()
    counts = Counter(zip(found.ids, is_label, strict=True))
    assert set(counts.values()) == {1}, "an observation came twice"
    assert len(counts) == 2 * ROWS, "an observation is lost"
    return found


def expected(
    service: DriftService, log: Observations, reference: Reference | None = None
) -> tuple[list[DriftEvent], list[RetrainEvent]]:
    outcome = DriftMonitor(service.loaded.config, lambda name, version: reference).process(log)
    assert outcome.requests, "the stream shows no drift"
    return outcome.events, outcome.requests


def assert_as_expected(service: DriftService, reference: Reference | None = None) -> None:
    """Compare what was written with what the log leads to, once all of it was seen."""
    events, requests = expected(service, log_in_topic(service), reference)
    group_lag = eventually(lambda: service.metric("penstock_drift_waiting", kind="predictions"), 30)
    assert group_lag is not None
    assert service.events(len(events)) == events
    assert service.requests(len(requests)) == requests
    assert len(requests) == 1


def publish_in_steps(
    service: DriftService, stream: Stream, start: int = 0, end: int = ROWS
) -> None:
    for row in range(start, end, STEP):
        service.publish(stream, row, row + STEP)


def test_drift_is_found_asked_for_once_and_reported(service: DriftService, tmp_path: Path) -> None:
    names = service.loaded.config.feature_names
    name = service.loaded.config.pipeline
    log_model(service.mlflow_url, name, names, tmp_path)
    try:
        service.start(**SMALL)
        stream = make_stream(3, ROWS, concept_at=CHANGE, model=name)
        publish_in_steps(service, stream)
        reference = make_training_reference(names)
        assert_as_expected(service, reference)
        detected = next(e for e in service.events(2) if e.severity == "detected")
        assert detected.kind == "concept"
        assert detected.reference_id == reference.reference_id
        since = service.requests()[0].data_since
        assert since is not None
        assert abs(since - int(stream.times[CHANGE])) < 500 * 6_000
        report = eventually(lambda: report_of(service, detected), WAIT_S)
        assert report["rows"] == detected.window.rows
        assert "error" in report["drifted"]
        assert report["event_ids"] == [detected.event_id]
        assert (service.reports / f"{detected.episode_id}.html").stat().st_size > 100_000
        last = slice(-ROWS, None)
        truth = auc(stream.labels[last], stream.scores[last])
        shown = eventually(lambda: service.metric("penstock_drift_auc", version="1"), 10)
        assert shown == pytest.approx(truth, abs=0.005)
        assert service.stop() == 0
        # A report that is gone is made again.
        (service.reports / f"{detected.episode_id}.json").unlink()
        service.start(**SMALL)
        assert eventually(lambda: report_of(service, detected), WAIT_S) == report
    finally:
        delete_model(service.mlflow_url, name)


def report_of(service: DriftService, event: DriftEvent) -> dict[str, Any]:
    file = service.reports / f"{event.episode_id}.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


@pytest.mark.faults
@pytest.mark.parametrize("place", ["mid_produce:4", "during_commit:6"])
def test_killed_at_a_bad_moment_the_same_is_found(service: DriftService, place: str) -> None:
    stream = make_stream(4, ROWS, concept_at=CHANGE)
    publish_in_steps(service, stream, 0, CHANGE)
    service.start(**kill_loop("PENSTOCK_DRIFT_", place), **SMALL)
    assert service.process is not None
    assert service.process.wait(WAIT_S) == -signal.SIGKILL
    service.start(**SMALL)
    publish_in_steps(service, stream, CHANGE)
    assert_as_expected(service)


@pytest.mark.faults
def test_killed_at_random_the_same_is_found(service: DriftService, seed: int) -> None:
    rng = random.Random(seed)
    stream = make_stream(5, ROWS, concept_at=CHANGE)
    for start in range(0, ROWS, 4 * STEP):
        publish_in_steps(service, stream, start, start + 4 * STEP)
        service.start(**SMALL)
        if start + 4 * STEP == ROWS:
            break
        eventually(lambda: service.metric("penstock_drift_observations_total"), 60)
        assert service.process is not None
        threading.Event().wait(rng.uniform(0.0, 1.5))
        service.process.kill()
        service.process.wait(10)
    assert_as_expected(service)
    assert service.stop() == 0


def test_bad_interactions_are_dead_letters_and_their_neighbours_go_on(
    service: DriftService,
) -> None:
    stream = make_stream(6, ROWS, concept_at=CHANGE)
    service.start(**SMALL)
    publish_in_steps(service, stream, 0, CHANGE)
    encode = service.encoders[service.topics.interactions]
    good = {"event_id": "e1", "kind": None, "value": None, "occurred_at": 10**12}
    bad = [
        b"\x00\x00",
        b"{}",
        encode({**good, "label": float("nan")}),
        encode({**good, "event_id": "", "label": 1.0}),
    ]
    producer = Producer({"bootstrap.servers": service.bootstrap})
    for value in (*bad, encode({**good, "label": None, "kind": "dispute"})):
        producer.produce(service.topics.interactions, value, b"k", partition=0)
    assert producer.flush(30) == 0
    publish_in_steps(service, stream, CHANGE)
    assert_as_expected(service)
    dead = service.read(service.topics.dead_letter(service.topics.interactions), len(bad))
    assert sorted(m.value() for m in dead) == sorted(bad)
    classes = Counter(dict(m.headers())["dlq.class"] for m in dead)
    assert classes == {b"decode": 2, b"rule": 2}
    assert {dict(m.headers())["dlq.service"] for m in dead} == {b"drift"}
