"""The training job on real Kafka, registry, MLflow and Triton; the test is the router."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from harness.retrain import RetrainedPipeline, loaded, pressed, shape, vibrating
from penstock_monitoring.reference import REFERENCE_FILE, SAMPLE_FILE, Reference
from penstock_schemas.errors import ConfigError
from penstock_training.tracking import CHAMPION, DATASET_FILE, REQUEST_TAG, Tracker
from penstock_training_job.gates import METRICS
from penstock_training_job.job import Addresses
from penstock_training_job.rows import rebuild_training_set

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("default"),  # MLflow warns about its own code
]
KILLED = -9
PLACES = (
    "after_run",
    "mid_upload",
    "after_register",
    "after_publish",
    "in_canary",
    "after_verdict",
    "before_finished",
    "after_finished",
)


@pytest.fixture
def pipeline(places: Addresses, tmp_path: Path) -> Iterator[RetrainedPipeline]:
    made = RetrainedPipeline(places, tmp_path)
    yield made
    made.remove_topics()


def is_promoted(pipeline: RetrainedPipeline, request_id: str) -> None:
    """Assert all that a promotion leaves behind: one of everything."""
    requested, started, finished = pipeline.events(request_id)
    assert [e.state for e in (requested, started, finished)] == ["requested", "started", "finished"]
    assert (finished.verdict, finished.model_version) == ("promoted", "2")
    assert started.run_id == finished.run_id
    assert started.job_id == request_id
    assert set(finished.metrics) == set(METRICS)
    assert finished.metrics["canary_auc"] > 0.95 > 0.75 > finished.metrics["champion_auc"]
    assert finished.metrics["canary_rows"] >= 300
    assert finished.metrics["gain_low"] > 0
    assert shape(pipeline.state()) == [
        ("2", "champion", 100, "serving"),
        ("1", "previous", 0, "retired"),
    ]
    assert loaded(pipeline.places, f"{pipeline.name}__2")
    assert not loaded(pipeline.places, f"{pipeline.name}__1")
    client = mlflow.MlflowClient(pipeline.places.mlflow)
    experiment = client.get_experiment_by_name(pipeline.name)
    runs = client.search_runs([experiment.experiment_id])
    (mine,) = [r for r in runs if r.data.tags.get(REQUEST_TAG) == request_id]
    assert mine.info.run_id == finished.run_id
    versions = client.search_model_versions(f"name='{pipeline.name}'")
    assert {str(v.version) for v in versions} == {"1", "2"}
    champion = Tracker(pipeline.places.mlflow, pipeline.name).champion()
    assert champion is not None
    assert (champion.version, champion.run_id) == ("2", finished.run_id)
    assert client.get_registered_model(pipeline.name).aliases.keys() == {CHAMPION}


def test_better_candidate_is_promoted_and_its_training_set_can_be_made_again(
    pipeline: RetrainedPipeline,
) -> None:
    pipeline.serve(300, vibrating)
    since = pipeline.now()
    pipeline.serve(2_500, pressed, after=since)
    request_id = pipeline.request(data_since=since, cause_ids=("d1",))
    with pipeline.traffic(pressed):
        done = pipeline.job(request_id)
    assert done.returncode == 0, done.stderr
    is_promoted(pipeline, request_id)

    run_id = pipeline.events(request_id)[-1].run_id
    tracker = Tracker(pipeline.places.mlflow, pipeline.name)
    manifest = json.loads(tracker.file(run_id, DATASET_FILE) or b"")
    rows = rebuild_training_set(
        manifest, pipeline.kafka, pipeline.registry.schema_text, pipeline.loaded.config
    )
    assert rows.sha256 == manifest["sha256"] == tracker.notes(run_id)[0]["dataset_sha256"]
    assert np.array_equal(rows.labels, pressed(rows.matrix)), "rows from before the change"
    manifest["source"]["ids_sha256"] = "0" * 64
    with pytest.raises(ConfigError, match="no longer hold"):
        rebuild_training_set(
            manifest, pipeline.kafka, pipeline.registry.schema_text, pipeline.loaded.config
        )
    reference = Reference.from_json(tracker.file(run_id, REFERENCE_FILE) or b"")
    assert reference.rows == len(rows)
    for name in (SAMPLE_FILE, "roc.png", "precision_recall.png"):
        assert tracker.file(run_id, name), name
    assert tracker.file(pipeline.first.versions[0].run_id, REFERENCE_FILE)


@pytest.mark.faults
def test_job_killed_anywhere_ends_with_one_run_one_version_and_one_end(
    pipeline: RetrainedPipeline,
) -> None:
    pipeline.serve(1_800, pressed)
    request_id = pipeline.request()
    with pipeline.traffic(pressed):
        for place in PLACES:
            done = pipeline.job(request_id, place)
            assert done.returncode == KILLED, f"{place}\n{done.stderr}"
        done = pipeline.job(request_id)
    assert done.returncode == 0, done.stderr
    is_promoted(pipeline, request_id)
