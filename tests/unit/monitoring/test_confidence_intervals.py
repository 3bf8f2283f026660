"""Intervals that hold what they say; how often they cover the truth is `test_judge`'s."""

from __future__ import annotations

import math

import numpy as np
import pytest
from penstock_monitoring.confidence_intervals import paired_bootstrap


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("labels", [[], [0.0, 0.0], [1.0]])
def test_without_both_classes_there_is_no_interval(labels: list[float], stratified: bool) -> None:
    values = np.array(labels)
    found = paired_bootstrap(values, values, values, stratified=stratified)
    assert math.isnan(found.gap_interval[0])


@pytest.mark.parametrize("stratified", [True, False])
def test_interval_holds_the_area_and_narrows_with_rows(
    rng: np.random.Generator, stratified: bool
) -> None:
    widths = []
    for n in (1000, 16_000):
        labels = (rng.random(n) < 0.05).astype(np.float64)
        good = rng.normal(2.0 * labels, 1.0)
        both = paired_bootstrap(labels, rng.normal(labels, 1.0), good, stratified=stratified)
        for area, (low, high) in (
            (both.first, both.first_interval),
            (both.second, both.second_interval),
            (both.second - both.first, both.gap_interval),
        ):
            assert low < area < high
        widths.append(both.second_interval[1] - both.second_interval[0])
    assert widths[1] < 0.5 * widths[0]


def test_rows_are_drawn_as_one_by_one(rng: np.random.Generator) -> None:
    labels = (rng.random(200) < 0.2).astype(np.float64)
    first, second = rng.normal(labels, 1.0), rng.normal(labels, 1.0)
    whole = paired_bootstrap(labels, first, second, stratified=False, seed=3, resamples=50)
    again = np.random.default_rng(3)
    gaps = []
    for _ in range(50):
        rows = again.integers(0, 200, 200)
        part = paired_bootstrap(
            labels[rows], first[rows], second[rows], stratified=False, resamples=1
        )
        gaps.append(part.second - part.first)
    assert whole.gap_interval == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])))
