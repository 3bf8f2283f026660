"""The area under the ROC curve against scikit-learn, and intervals that hold what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from penstock_cli.demonstration.roc import Ranking, auc, compare
from sklearn.metrics import roc_auc_score


@pytest.mark.parametrize("decimals", [1, 6], ids=["many ties", "few ties"])
def test_area_is_that_of_scikit_learn(rng: np.random.Generator, decimals: int) -> None:
    labels = (rng.random(3000) < 0.05).astype(np.float64)
    scores = np.round(rng.random(3000) + 0.3 * labels, decimals)
    weights = rng.integers(0, 4, 3000).astype(np.float64)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    weighted = roc_auc_score(labels, scores, sample_weight=weights)
    assert Ranking(labels, scores).auc(weights) == pytest.approx(weighted)


@pytest.mark.parametrize("labels", [[], [0.0, 0.0], [1.0]])
def test_without_both_classes_there_is_no_area(labels: list[float]) -> None:
    values = np.array(labels)
    assert math.isnan(auc(values, values))
    assert math.isnan(compare(values, values, values).gap_interval[0])


def test_interval_holds_the_area_and_narrows_with_rows(rng: np.random.Generator) -> None:
    widths = []
    for n in (1000, 16_000):
        labels = (rng.random(n) < 0.05).astype(np.float64)
        good = rng.normal(2.0 * labels, 1.0)
        both = compare(labels, rng.normal(labels, 1.0), good)
        for area, (low, high) in (
            (both.first, both.first_interval),
            (both.second, both.second_interval),
            (both.second - both.first, both.gap_interval),
        ):
            assert low < area < high
        widths.append(both.second_interval[1] - both.second_interval[0])
    assert widths[1] < 0.5 * widths[0]
