from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from penstock_training.onnx_export import onnx_scores, to_onnx
from penstock_training.tracking import (
    CHALLENGER,
    CHAMPION,
    DATASET_FILE,
    REQUEST_TAG,
    Tracker,
    TrackingUnavailable,
    TrainingRecord,
    digest_of,
    git_commit,
)
from penstock_training.trainers import make_trainer

MATRIX = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
LABELS = (MATRIX[:, 0] > 0).astype(np.float64)


def record() -> TrainingRecord:
    model = make_trainer("logistic").fit(MATRIX, LABELS)
    dataset = {"source": {"data": "x.csv"}, "rows": 200, "sha256": "ab" * 32}
    return TrainingRecord(model.params, {"auc": 0.9}, dataset, to_onnx(model))


@pytest.mark.filterwarnings("default")  # MLflow warns about its own code
def test_logged_model_comes_back_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a database keeps its artifacts beside it
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "fraud")
    assert tracker.champion() is None
    logged = record()
    model = tracker.log(logged, "c0ffee")
    assert (model.name, model.version, model.git_commit) == ("fraud", "1", "c0ffee")
    assert model.digest == digest_of(logged.model.SerializeToString())
    assert tracker.champion() == model
    scores = onnx_scores(model.onnx_bytes, MATRIX)
    assert ((scores > 0.5) == (LABELS > 0.5)).mean() > 0.9
    second = tracker.log(logged, "c0ffee")
    assert second.version == "2"
    assert tracker.champion() == second

    import mlflow

    run = mlflow.get_run(model.run_id)
    assert run.data.params["kind"] == "logistic"
    assert run.data.metrics["auc"] == 0.9
    assert run.data.tags["dataset_sha256"] == "ab" * 32
    with pytest.raises(TrackingUnavailable):
        tracker.version("9")


def test_commit_of_a_folder_outside_any_working_copy_is_empty(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == ""


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.chdir(tmp_path)  # a database keeps its artifacts beside it
    return Tracker(f"sqlite:///{tmp_path}/mlflow.db", "fraud")


@pytest.mark.filterwarnings("default")
def test_one_request_has_one_run_and_one_version_however_often_it_is_logged(
    tracker: Tracker,
) -> None:
    run_id = tracker.run_of("r1", {"git_commit": "c0ffee"})  # and then the process was killed
    tracker.log_training(run_id, record())  # and once more
    assert tracker.registered(run_id) is None
    model = tracker.log(record(), "c0ffee", request_id="r1", alias=CHALLENGER, tags={"a": "b"})
    again = tracker.log(record(), "c0ffee", request_id="r1", alias=CHALLENGER)
    assert again == model == tracker.registered(run_id)
    assert (model.run_id, model.version) == (run_id, "1")
    assert tracker.champion() is None
    other = tracker.log(record(), "c0ffee", request_id="r2", alias=CHALLENGER)
    assert (other.version, other.run_id != run_id) == ("2", True)
    assert tracker.versions() == ["1", "2"]
    assert tracker.notes(other.run_id)[0][REQUEST_TAG] == "r2"


@pytest.mark.filterwarnings("default")
def test_challenger_becomes_champion_and_files_and_notes_are_kept(tracker: Tracker) -> None:
    with_files = replace(record(), artifacts={"reference.json": b"{}", "roc.png": b"png"})
    model = tracker.log(with_files, "c0ffee", request_id="r1", alias=CHALLENGER)
    tracker.drop_alias(model.version, CHALLENGER)
    tracker.drop_alias(model.version, CHALLENGER)
    tracker.set_alias(model.version, CHAMPION)
    assert tracker.champion() == model
    tracker.note(model.run_id, {"penstock.verdict": "promoted"}, {"canary_auc": 0.9})
    tags, metrics = tracker.notes(model.run_id)
    assert (tags["penstock.verdict"], metrics["canary_auc"]) == ("promoted", 0.9)
    assert metrics["auc"] == 0.9
    assert tracker.file(model.run_id, "reference.json") == b"{}"
    assert tracker.file(model.run_id, "nothing.json") is None
    assert json.loads(tracker.file(model.run_id, DATASET_FILE) or b"")["rows"] == 200
