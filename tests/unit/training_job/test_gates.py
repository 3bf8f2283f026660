from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from penstock_training.onnx_export import onnx_scores, to_onnx
from penstock_training.tracking import RegisteredModel
from penstock_training.trainers import make_trainer
from penstock_training_job.canary import compare_canary, verdict_of
from penstock_training_job.gates import (
    METRICS,
    Verdict,
    canary_metrics,
    event_metrics,
    holdout_metrics,
)
from penstock_training_job.judge import Comparison

BETTER = Comparison(2_000, 60, 0.95, 0.70, 0.20, 0.30)
UNSURE = Comparison(2_000, 60, 0.95, 0.94, -0.01, 0.03)


def test_verdict_comes_back_from_the_run_s_notes() -> None:
    metrics = {**holdout_metrics(UNSURE, 10_000), **canary_metrics(BETTER)}
    verdict = Verdict("rejected", "why", event_metrics(metrics))
    noted = {**metrics, "parity_max_abs_diff": 1e-6}
    assert Verdict.from_notes({**verdict.tags(), "git_commit": "x"}, noted) == verdict
    assert Verdict.from_notes({"git_commit": "x"}, noted) is None
    assert set(verdict.metrics) == set(METRICS)
    assert verdict.metrics["gain_low"] == BETTER.gain_low


def test_verdict_names_both_figures() -> None:
    promoted = verdict_of(BETTER, 0.0)
    assert (promoted.verdict, promoted.metrics["canary_auc"]) == ("promoted", 0.95)
    assert "0.9500" in promoted.reason
    assert "0.7000" in promoted.reason
    rejected = verdict_of(UNSURE, 0.0)
    assert (rejected.verdict, rejected.metrics["champion_auc"]) == ("rejected", 0.94)
    assert "not sure" in rejected.reason


def test_canary_is_judged_by_its_live_scores_against_the_champion_on_the_same_features() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(400, 2)).astype(np.float32)
    labels = (matrix[:, 1] > 0).astype(np.float64)
    champion = to_onnx(make_trainer("logistic").fit(matrix, (matrix[:, 0] > 0).astype(np.float64)))
    model = RegisteredModel("m", "1", "run", "", champion.SerializeToString())
    rows = pa.table(
        {
            "features": pa.array(matrix.tolist(), pa.list_(pa.float32())),
            "score": matrix[:, 1],
            "label": labels,
        }
    )
    found = compare_canary(rows, model, 2)
    assert found.candidate_auc == 1.0
    own = onnx_scores(model.onnx_bytes, matrix)
    below = own[labels == 0][:, None] < own[labels == 1][None, :]
    assert found.champion_auc == pytest.approx(below.mean(), abs=1e-3)
