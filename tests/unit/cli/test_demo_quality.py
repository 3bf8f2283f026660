"""Figures of the demo from joined rows: what comes late, twice, or from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from penstock_cli.demonstration.joined_rows import JoinedRows, Labels, Predictions
from penstock_cli.demonstration.quality import (
    canary_share,
    curve,
    labels_until,
    now,
    phases,
    promotion,
    quality_of,
)

N = 20_000
IDS = [f"e{i}" for i in range(N)]


def predictions(numbers: range, scores: np.ndarray, version: str = "1", canary: bool = False):  # type: ignore[no-untyped-def, type-arg]
    n = len(numbers)
    return Predictions(
        [IDS[i] for i in numbers],
        scores[numbers.start : numbers.stop],
        [version] * n,
        np.full(n, canary),
        np.zeros(n, np.int64),
        np.arange(numbers.start, numbers.stop),
        [f"k{i % 50}".encode() for i in numbers],
        np.full((n, 2), float(version), np.float32),
    )


def labels(numbers: range, truth: np.ndarray) -> Labels:  # type: ignore[type-arg]
    part = slice(numbers.start, numbers.stop)
    return Labels(IDS[part], truth[part], np.arange(numbers.start, numbers.stop) * 10)


@pytest.fixture
def truth_and_scores() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Return truth and a score that knows it well."""
    rng = np.random.default_rng(5)
    truth = (rng.random(N) < 0.1).astype(np.float64)
    return truth, rng.normal(2.0 * truth, 1.0)


def test_rows_join_whichever_comes_first(truth_and_scores) -> None:  # type: ignore[no-untyped-def]
    truth, score = truth_and_scores
    rows = JoinedRows()
    rows.add_truth(IDS, score)
    rows.add_labels(labels(range(100), truth))
    assert rows.joined.sum() == 0
    rows.add_predictions(predictions(range(50, 200), score))
    assert np.flatnonzero(rows.joined).tolist() == list(range(50, 100))
    rows.add_labels(labels(range(100, 200), truth))
    assert rows.joined.sum() == 150


def test_repeated_foreign_and_unscored_predictions_are_told(truth_and_scores) -> None:  # type: ignore[no-untyped-def]
    truth, score = truth_and_scores
    rows = JoinedRows()
    rows.add_truth(IDS[:100], score[:100])
    rows.add_predictions(predictions(range(150), score))
    rows.add_predictions(predictions(range(10), score))
    assert (rows.predicted, rows.duplicates, rows.foreign) == (100, 10, 50)
    rows.add_predictions(predictions(range(5), np.full(5, np.nan)))
    rows.add_labels(labels(range(100), truth))
    assert rows.joined.sum() == 95


def test_truth_may_come_batch_by_batch(truth_and_scores) -> None:  # type: ignore[no-untyped-def]
    truth, score = truth_and_scores
    rows = JoinedRows()
    for at in range(0, N, 700):
        rows.add_truth(IDS[at : at + 700], score[at : at + 700])
        rows.add_predictions(predictions(range(at, min(N, at + 700)), score))
    rows.add_labels(labels(range(N), truth))
    assert len(rows) == rows.predicted == N
    assert np.array_equal(rows.floats("oracle"), score)
    quality = quality_of(rows, rows.joined)
    assert quality.champion == quality.oracle > 0.85
    assert (quality.rows, quality.positives) == (N, int(truth.sum()))


@pytest.fixture
def loop(truth_and_scores) -> JoinedRows:  # type: ignore[no-untyped-def]
    """Return a run: drift at 8,000, a canary from 10,000 to 12,000, promoted at 12,000."""
    truth, score = truth_and_scores
    blind = np.random.default_rng(6).random(N)
    rows = JoinedRows()
    rows.add_truth(IDS, score)
    rows.add_predictions(predictions(range(8000), score))
    rows.add_predictions(predictions(range(8000, 10_000), blind))
    for i in range(10_000, 12_000):
        is_canary = i % 50 < 5
        version = "2" if is_canary else "1"
        rows.add_predictions(predictions(range(i, i + 1), blind, version, is_canary))
    rows.add_predictions(predictions(range(12_000, N), score, "2"))
    rows.add_labels(labels(range(N), truth))
    return rows


def test_phases_are_split_by_planted_point_and_version(loop: JoinedRows) -> None:
    split = phases(loop, 8000, "1", "2")
    assert np.flatnonzero(split.before).tolist() == list(range(8000))
    assert split.drifted.sum() == 2000 + 1800
    assert np.flatnonzero(split.promoted).tolist() == list(range(12_000, N))
    assert quality_of(loop, split.before).champion > 0.85
    assert quality_of(loop, split.drifted).champion < 0.6
    after = promotion(loop, split.promoted, old_champion=0.61)
    low, high = after.both.first_interval
    assert low < after.both.first < high
    assert after.both.gap_interval == (0.0, 0.0)
    assert after.to_dict()["old_champion"] == 0.61


def test_before_a_promotion_nothing_is_after_it(loop: JoinedRows) -> None:
    assert phases(loop, 8000, "1", None).promoted.sum() == 0
    assert phases(loop, 8000, "1", "3").promoted.sum() == 0


def test_features_are_kept_of_what_a_later_champion_predicted(loop: JoinedRows) -> None:
    chosen = phases(loop, 8000, "1", "2").promoted
    numbers, matrix = loop.features_of(chosen)
    assert sorted(numbers.tolist()) == list(range(12_000, N))
    assert matrix.shape == (N - 12_000, 2)
    assert (matrix == 2.0).all()


def test_labels_count_by_the_time_at_which_they_were_known(loop: JoinedRows) -> None:
    assert labels_until(loop, 8000, at_ms=8000 * 10 + 9990) == 1000
    assert labels_until(loop, 8000, at_ms=0) == 0


def test_canary_share_is_that_of_the_time_when_there_was_one(loop: JoinedRows) -> None:
    share = canary_share(loop)
    assert (share.rows, share.keys, share.keys_with_both) == (200, 5, 0)
    assert share.keys_percent == 10.0
    assert share.rows_percent == pytest.approx(10.0, abs=0.5)


def test_a_key_that_meets_both_variants_is_found(loop: JoinedRows, truth_and_scores) -> None:  # type: ignore[no-untyped-def]
    loop.add_predictions(predictions(range(11_007, 11_008), truth_and_scores[1], "2", canary=True))
    assert canary_share(loop).keys_with_both == 1


def test_without_a_canary_its_share_is_nothing(truth_and_scores) -> None:  # type: ignore[no-untyped-def]
    rows = JoinedRows()
    rows.add_truth(IDS, truth_and_scores[1])
    rows.add_predictions(predictions(range(N), truth_and_scores[1]))
    assert canary_share(rows).rows == 0


def test_curve_falls_and_rises_again(loop: JoinedRows) -> None:
    points = curve(loop)
    assert [p.event for p in points] == sorted(p.event for p in points)
    assert points[0].champion == points[0].oracle > 0.85
    assert min(p.champion for p in points) < 0.75
    assert points[-1].champion > 0.85
    assert now(loop).champion > 0.85
    assert now(loop).rows == 5000


def test_an_empty_run_has_no_figures() -> None:
    rows = JoinedRows()
    assert curve(rows) == []
    assert np.isnan(now(rows).champion)
