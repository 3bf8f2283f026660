"""The figures of quality against scikit-learn, and the AUC by its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_monitoring.quality import auc, average_precision, log_loss, weighted_auc
from sklearn import metrics


@pytest.mark.parametrize("decimals", [1, 6], ids=["many ties", "few ties"])
def test_area_is_that_of_scikit_learn(rng: np.random.Generator, decimals: int) -> None:
    labels = (rng.random(3000) < 0.05).astype(np.float64)
    scores = np.round(rng.random(3000) + 0.3 * labels, decimals)
    weights = rng.integers(0, 4, 3000).astype(np.float64)
    assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))
    weighted = metrics.roc_auc_score(labels, scores, sample_weight=weights)
    assert weighted_auc(labels, scores, weights[None, :])[0] == pytest.approx(weighted)


def test_auc_is_the_usual_one_with_ties_and_weights(rng: np.random.Generator) -> None:
    labels = (rng.random(400) < 0.1).astype(np.float64)
    labels[:2] = [0.0, 1.0]
    scores = np.round(rng.random(400) + 0.5 * labels, 1)
    weights = 1.0 + rng.integers(0, 3, (5, 400))
    usual = [metrics.roc_auc_score(labels, scores, sample_weight=w) for w in weights]
    assert weighted_auc(labels, scores, weights) == pytest.approx(usual)
    assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=1))
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[float, bool]]) -> None:
    scores, labels = np.array(rows, np.float64).T
    pairs = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one in scores[labels > 0]
        for other in scores[labels == 0]
    ]
    expected = np.mean(pairs) if pairs else np.nan
    assert auc(labels, scores) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("labels", [[], [0.0, 0.0], [1.0]])
def test_without_both_classes_there_is_no_area(labels: list[float]) -> None:
    values = np.array(labels)
    assert math.isnan(auc(values, values))


@pytest.mark.parametrize("decimals", [1, 6], ids=["many ties", "few ties"])
def test_average_precision_and_log_loss_are_those_of_scikit_learn(
    rng: np.random.Generator, decimals: int
) -> None:
    labels = (rng.random(3000) < 0.05).astype(np.float64)
    scores = np.round(np.clip(rng.random(3000) + 0.3 * labels, 0.0, 1.0), decimals)
    weights = rng.integers(0, 4, 3000).astype(np.float64)
    for some in (None, weights):
        precision = metrics.average_precision_score(labels, scores, sample_weight=some)
        assert average_precision(labels, scores, some) == pytest.approx(precision)
        loss = metrics.log_loss(labels, scores, sample_weight=some)
        assert log_loss(labels, scores, some) == pytest.approx(loss)


def test_without_a_positive_there_is_no_precision() -> None:
    assert math.isnan(average_precision(np.zeros(3), np.ones(3)))
