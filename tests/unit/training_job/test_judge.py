from __future__ import annotations

import numpy as np
import pytest
from penstock_monitoring.quality import auc
from penstock_training_job.gates import canary_objection, offline_objection
from penstock_training_job.judge import MIN_POSITIVES, Comparison, compare, is_enough


def drawn(
    rng: np.random.Generator, n: int, candidate: float, champion: float, share: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw labels and two correlated scores; the larger the shift, the better the score."""
    labels = (rng.random(n) < share).astype(np.float64)
    common = rng.normal(size=n)
    noises = [0.7 * common + 0.7 * rng.normal(size=n) for _ in range(2)]
    return labels, candidate * labels + noises[0], champion * labels + noises[1]


def test_interval_covers_the_true_gain_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    labels, candidate, champion = drawn(rng, 200_000, 2.0, 1.2)
    truth = auc(labels, candidate) - auc(labels, champion)
    hits = 0
    for _ in range(100):
        found = compare(*drawn(rng, 800, 2.0, 1.2), resamples=300)
        hits += found.gain_low <= truth <= found.gain_high
    assert 88 <= hits <= 100


def test_comparison_is_the_same_each_time(rng: np.random.Generator) -> None:
    rows = drawn(rng, 1_000, 2.0, 1.0)
    assert compare(*rows) == compare(*rows)


def test_memory_bound_changes_nothing(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = drawn(rng, 500, 2.0, 1.0)
    whole = compare(*rows, resamples=400)
    monkeypatch.setattr("penstock_monitoring.confidence_intervals._CHUNK_CELLS", 500 * 7)
    parts = compare(*rows, resamples=400)
    assert parts.gain_low == pytest.approx(whole.gain_low, abs=0.02)
    assert parts.candidate_auc == whole.candidate_auc


def test_better_candidate_has_no_objection_and_a_worse_one_has_both() -> None:
    rng = np.random.default_rng(2)
    better = compare(*drawn(rng, 4_000, 3.0, 0.3))
    assert better.gain_low > 0
    assert (offline_objection(better, 0.0), canary_objection(better, 0.0)) == ("", "")
    worse = compare(*drawn(rng, 4_000, 0.0, 2.5))
    assert "below 0 with 95 %" in offline_objection(worse, 0.0)
    assert "not sure" in canary_objection(worse, 0.0)


def test_equal_models_pass_the_holdout_and_not_the_canary() -> None:
    found = compare(*drawn(np.random.default_rng(3), 3_000, 1.5, 1.5))
    assert offline_objection(found, 0.0) == ""
    assert canary_objection(found, 0.0) != ""


def test_equal_models_are_seldom_promoted() -> None:
    rng = np.random.default_rng(4)
    promoted = sum(
        not canary_objection(compare(*drawn(rng, 600, 1.5, 1.5), resamples=300), 0.0)
        for _ in range(60)
    )
    assert promoted <= 6


def test_gain_asked_for_is_what_the_lower_bound_must_reach() -> None:
    found = Comparison(2_000, 60, 0.95, 0.90, 0.02, 0.08)
    assert canary_objection(found, 0.02) == ""
    assert canary_objection(found, 0.021) != ""
    assert offline_objection(found, 0.08) == ""
    assert offline_objection(found, 0.081) != ""


@pytest.mark.parametrize(
    ("rows", "positives", "enough"),
    [
        (2_000, MIN_POSITIVES, True),
        (1_999, MIN_POSITIVES, False),
        (2_000, MIN_POSITIVES - 1, False),
        (2_000, 2_000 - MIN_POSITIVES + 1, False),
    ],
)
def test_verdict_needs_rows_of_both_classes(rows: int, positives: int, enough: bool) -> None:
    assert is_enough(np.arange(rows) < positives, 2_000) == enough
