from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from penstock_training.onnx_export import onnx_scores, to_onnx
from penstock_training.tracking import (
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
