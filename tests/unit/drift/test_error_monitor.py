"""Concept drift from single errors: indices, delays, false alarms, restored state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_drift.change_point import change_point
from penstock_drift.error_monitor import ErrorFinding, ErrorMonitor
from penstock_drift.journal import BLOCK_ROWS, CAPACITY_ROWS
from penstock_pipelines.lifecycle import Monitor

Floats = npt.NDArray[np.float64]
SETTINGS = Monitor()
QUICK = Monitor(evidence_labels=200, adwin_delta=0.01)


def errors(seed: int, *parts: tuple[int, float]) -> Floats:
    """Return rows of errors as a model of rare positives makes them, of these means."""
    rng = np.random.default_rng(seed)
    drawn = [np.where(rng.random(n) < mean, rng.random(n) * 2, 0.001) for n, mean in parts]
    return np.minimum(1.0, np.concatenate(drawn))


def found(monitor: ErrorMonitor, values: Floats, first: int = 0) -> list[tuple[int, ErrorFinding]]:
    """Return findings with the row at which they came; a row's time and offset are its number."""
    result = []
    for row, value in enumerate(values.tolist(), first):
        finding = monitor.update(value, row, row)
        if finding is not None:
            result.append((row, finding))
    return result


def test_a_rise_is_suspected_then_confirmed_at_known_rows() -> None:
    result = found(ErrorMonitor(SETTINGS), errors(1, (20_000, 0.01), (5_000, 0.03)))
    assert [(row, f.verdict) for row, f in result] == ROWS_OF_SEED_1
    suspected, detected = (f for _, f in result)
    assert abs(detected.since - 20_000) < 500
    assert detected.rows >= SETTINGS.evidence_labels
    assert detected.mean > 1.5 * detected.baseline
    assert suspected.baseline == pytest.approx(0.008, abs=0.002)
    assert detected.first_offset <= detected.since
    assert detected.since - detected.first_offset < BLOCK_ROWS


ROWS_OF_SEED_1 = [(22_047, "suspected"), (22_048, "detected")]


@pytest.mark.parametrize("seed", range(12))
def test_no_false_alarm(seed: int) -> None:
    assert not [f for _, f in found(ErrorMonitor(SETTINGS), errors(seed, (40_000, 0.01)))]


@pytest.mark.parametrize("seed", range(8))
def test_confirmed_within_five_thousand_labels(seed: int) -> None:
    values = errors(100 + seed, (15_000, 0.01), (5_000, 0.03))
    rows = [row for row, f in found(ErrorMonitor(SETTINGS), values) if f.verdict == "detected"]
    assert len(rows) == 1
    assert 15_000 < rows[0] < 20_000


def test_a_fall_is_no_drift() -> None:
    assert not found(ErrorMonitor(SETTINGS), errors(1, (10_000, 0.05), (10_000, 0.01)))


def test_a_small_rise_is_suspected_and_dropped() -> None:
    monitor = ErrorMonitor(SETTINGS)
    result = found(monitor, errors(3, (20_000, 0.05), (9_000, 0.065)))
    assert {f.verdict for _, f in result} == {"suspected"}
    assert not monitor.is_confirmed


def test_recovery_is_told_once_and_a_second_drift_is_found_again() -> None:
    parts = (10_000, 0.01), (5_000, 0.04), (15_000, 0.01), (5_000, 0.04)
    verdicts = [f.verdict for _, f in found(ErrorMonitor(SETTINGS), errors(4, *parts))]
    assert verdicts == ["suspected", "detected", "recovered", "suspected", "detected"]


def test_old_events_are_no_recovery() -> None:
    monitor = ErrorMonitor(SETTINGS)
    found(monitor, errors(4, (10_000, 0.01), (5_000, 0.04)))
    assert monitor.is_confirmed
    for row, value in enumerate(errors(5, (8_000, 0.01)).tolist()):
        assert monitor.update(value, row, 20_000 + row) is None
    assert monitor.is_confirmed


def test_labels_out_of_order_do_not_move_the_change() -> None:
    values = errors(6, (10_000, 0.01), (5_000, 0.04))
    order = np.argsort(np.arange(15_000) + np.random.default_rng(0).uniform(0, 3_000, 15_000))
    monitor = ErrorMonitor(SETTINGS)
    findings = [monitor.update(float(values[row]), int(row), int(row)) for row in order]
    detected = [f for f in findings if f is not None and f.verdict == "detected"]
    assert len(detected) == 1
    assert abs(detected[0].since - 10_000) < 500


def test_an_overflowing_journal_keeps_the_newer_half() -> None:
    monitor = ErrorMonitor(SETTINGS)
    found(monitor, errors(7, (CAPACITY_ROWS + 1, 0.01)))
    raw, times = monitor.journal_bytes()
    assert len(raw) // 4 == len(times) // 8 == CAPACITY_ROWS // 2 + 1
    assert np.frombuffer(times, "<i8")[0] == CAPACITY_ROWS // 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6_000))
def test_restored_state_goes_on_like_an_unbroken_run(seed: int, cut: int) -> None:
    values = errors(seed, (3_000, 0.02), (1_500, 0.2), (1_500, 0.02))
    unbroken = found(ErrorMonitor(QUICK), values)
    assert restored_run(values, cut, QUICK) == unbroken


@pytest.mark.parametrize("cut", [29_999, 30_000, 30_001, 44_000])
def test_restored_state_after_an_overflow(cut: int) -> None:
    values = errors(8, (43_000, 0.02), (4_000, 0.08))
    assert restored_run(values, cut, SETTINGS) == found(ErrorMonitor(SETTINGS), values)


def restored_run(values: Floats, cut: int, settings: Monitor) -> list[tuple[int, ErrorFinding]]:
    monitor = ErrorMonitor(settings)
    before = found(monitor, values[:cut])
    again = ErrorMonitor.restored(settings, monitor.state(), *monitor.journal_bytes())
    assert again.state() == monitor.state()
    return before + found(again, values[cut:], cut)


@pytest.mark.parametrize("seed", range(5))
def test_change_point_hits_the_step(seed: int) -> None:
    values = errors(seed, (8_000, 0.01), (2_000, 0.05))
    point = change_point(values, np.arange(10_000))
    assert point is not None
    assert abs(point.time - 8_000) < 450
    assert point.after > point.before
    assert point.rows == 10_000 - point.time


def test_change_point_needs_rows_on_both_sides() -> None:
    assert change_point(np.ones(59), np.arange(59)) is None
    assert change_point(np.ones(100), np.zeros(100, np.int64)) is None
