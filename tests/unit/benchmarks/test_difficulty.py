"""How hard the simulated problem is."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from difficulty import describe
from penstock_pipelines.loader import load_pipeline
from penstock_training.trainers import FittedModel, make_trainer
from penstock_training.training_set import training_set

FRAUD = load_pipeline(Path(__file__).parents[3] / "pipelines" / "fraud")


@cache
def fitted() -> FittedModel:
    rows = training_set(FRAUD)
    return make_trainer("mlp", 7).fit(rows.matrix, rows.labels)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_feature_gives_fraud_away_and_a_model_can_learn_it(seed: int) -> None:
    before, after = describe(FRAUD, fitted(), seed, 40_000)
    for row in (before, after):
        assert row["best_feature_auc"] <= 0.80
        assert row["oracle_auc"] >= 0.95
        assert 0.01 <= row["fraud_share"] <= 0.03
    assert before["champion_auc"] >= before["oracle_auc"] - 0.04
    assert after["champion_auc"] <= before["champion_auc"] - 0.10
    assert after["retrained_auc"] >= after["oracle_auc"] - 0.05
