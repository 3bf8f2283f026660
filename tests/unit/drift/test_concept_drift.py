"""Concept drift from single losses: indices, delays, false alarms, restored state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_drift.concept_drift import (
    BLOCK_ROWS,
    CAPACITY_ROWS,
    ErrorFinding,
    ErrorMonitor,
    Loss,
    change_point,
)
from penstock_monitoring.losses import bounded_log_loss, expected_log_loss
from penstock_pipelines.model import Monitor

Row = tuple[float, float]
"""A loss, and what its score expects."""
SETTINGS = Monitor()
QUICK = Monitor(evidence_labels=200, adwin_delta=0.01)


def losses(seed: int, *parts: tuple[int, float], risk: float = 0.05) -> list[Row]:
    """Return losses of a calibrated model.

    Parameters
    ----------
    parts
        Number of rows, and the share of them whose score has nothing to do with the label.
    risk
        First parameter of the Beta distribution of the risk.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for n, changed in parts:
        scores = rng.beta(risk, 1.2, n)
        labels = (rng.random(n) < scores).astype(np.float64)
        at = np.flatnonzero(rng.random(n) < changed)
        scores[at] = scores[rng.permutation(at)]
        found = bounded_log_loss(labels, scores), expected_log_loss(scores)
        rows.extend(zip(*(column.tolist() for column in found), strict=True))
    return rows


def found(monitor: ErrorMonitor, rows: list[Row], first: int = 0) -> list[tuple[int, ErrorFinding]]:
    """Return findings with the row at which they came; a row's time and offset are its number."""
    result = []
    for row, (loss, expected) in enumerate(rows, first):
        finding = monitor.update(Loss(loss, expected, row, row))
        if finding is not None:
            result.append((row, finding))
    return result


def test_a_change_is_suspected_then_confirmed_at_known_rows() -> None:
    result = found(ErrorMonitor(SETTINGS), losses(1, (20_000, 0.0), (5_000, 0.5)))
    assert [(row, f.verdict) for row, f in result] == ROWS_OF_SEED_1
    suspected, detected = (f for _, f in result)
    assert abs(detected.since - 20_000) < 500
    assert detected.rows >= SETTINGS.evidence_labels
    assert detected.ratio > SETTINGS.degradation * detected.baseline
    assert suspected.baseline == pytest.approx(0.7, abs=0.1)
    assert 0 <= detected.since - detected.first_offset < BLOCK_ROWS


ROWS_OF_SEED_1 = [(20_575, "suspected"), (21_003, "detected")]


@pytest.mark.parametrize("seed", range(12))
def test_no_false_alarm(seed: int) -> None:
    assert not found(ErrorMonitor(SETTINGS), losses(seed, (40_000, 0.0)))


@pytest.mark.parametrize("seed", range(6))
def test_other_shares_of_positives_are_no_drift(seed: int) -> None:
    monitor = ErrorMonitor(SETTINGS)
    night, day = losses(seed, (8_000, 0.0), risk=0.1), losses(seed, (8_000, 0.0), risk=0.03)
    assert not found(monitor, [*day, *night, *day, *night])


@pytest.mark.parametrize("seed", range(8))
def test_confirmed_within_five_thousand_labels(seed: int) -> None:
    rows = losses(100 + seed, (15_000, 0.0), (5_000, 0.5))
    at = [row for row, f in found(ErrorMonitor(SETTINGS), rows) if f.verdict == "detected"]
    assert len(at) == 1
    assert 15_000 < at[0] < 20_000


def test_a_better_model_is_no_drift() -> None:
    assert not found(ErrorMonitor(SETTINGS), losses(1, (10_000, 0.5), (10_000, 0.0)))


def test_a_small_rise_is_suspected_and_dropped() -> None:
    careful = Monitor(degradation=3.0)
    monitor = ErrorMonitor(careful)
    result = found(monitor, losses(3, (20_000, 0.0), (9_000, 0.3)))
    assert {f.verdict for _, f in result} == {"suspected"}
    assert not monitor.is_confirmed


def test_recovery_is_told_once_and_a_second_drift_is_found_again() -> None:
    parts = (10_000, 0.0), (5_000, 1.0), (30_000, 0.0), (5_000, 1.0)
    verdicts = [f.verdict for _, f in found(ErrorMonitor(SETTINGS), losses(4, *parts))]
    assert verdicts == ["suspected", "detected", "recovered", "suspected", "detected"]


def test_old_events_are_no_recovery() -> None:
    monitor = ErrorMonitor(SETTINGS)
    found(monitor, losses(4, (10_000, 0.0), (5_000, 1.0)))
    assert monitor.is_confirmed
    for row, (loss, expected) in enumerate(losses(5, (9_000, 0.0)) * 2):
        assert monitor.update(Loss(loss, expected, row % 9_000, 20_000 + row)) is None
    assert monitor.is_confirmed


def test_labels_out_of_order_do_not_move_the_change() -> None:
    rows = losses(6, (10_000, 0.0), (5_000, 1.0))
    order = np.argsort(np.arange(15_000) + np.random.default_rng(0).uniform(0, 3_000, 15_000))
    monitor = ErrorMonitor(SETTINGS)
    findings = [monitor.update(Loss(*rows[row], int(row), int(row))) for row in order]
    detected = [f for f in findings if f is not None and f.verdict == "detected"]
    assert len(detected) == 1
    assert abs(detected[0].since - 10_000) < 500


def test_an_overflowing_journal_keeps_the_newer_half() -> None:
    monitor = ErrorMonitor(SETTINGS)
    found(monitor, losses(7, (CAPACITY_ROWS + 1, 0.0)))
    raw, expected, times = monitor.journal_bytes()
    assert len(raw) // 4 == len(expected) // 4 == len(times) // 8 == CAPACITY_ROWS // 2 + 1
    assert np.frombuffer(times, "<i8")[0] == CAPACITY_ROWS // 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6_000))
def test_restored_state_goes_on_like_an_unbroken_run(seed: int, cut: int) -> None:
    rows = losses(seed, (3_000, 0.0), (1_500, 1.0), (3_000, 0.0))
    assert restored_run(rows, cut, QUICK) == found(ErrorMonitor(QUICK), rows)


@pytest.mark.parametrize("cut", [29_999, 30_000, 30_001, 44_000])
def test_restored_state_after_an_overflow(cut: int) -> None:
    rows = losses(8, (43_000, 0.0), (4_000, 1.0))
    assert restored_run(rows, cut, SETTINGS) == found(ErrorMonitor(SETTINGS), rows)


def restored_run(rows: list[Row], cut: int, settings: Monitor) -> list[tuple[int, ErrorFinding]]:
    monitor = ErrorMonitor(settings)
    before = found(monitor, rows[:cut])
    again = ErrorMonitor.restored(settings, monitor.state(), monitor.journal_bytes())
    assert again.state() == monitor.state()
    return before + found(again, rows[cut:], cut)


@pytest.mark.parametrize("seed", range(5))
def test_change_point_hits_the_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=10_000) + np.where(np.arange(10_000) < 8_000, 0.0, 0.3)
    point = change_point(values, np.arange(10_000))
    assert point is not None
    assert abs(point.time - 8_000) < 200
    assert point.after > point.before
    assert point.rows == 10_000 - point.time


def test_change_point_needs_rows_on_both_sides() -> None:
    assert change_point(np.ones(59), np.arange(59)) is None
    assert change_point(np.ones(100), np.zeros(100, np.int64)) is None
