"""Windows against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_drift.data_drift import PsiFinding, PsiMonitor
from penstock_monitoring.reference import Reference, make_reference
from penstock_pipelines.model import Monitor

SETTINGS = Monitor(window_rows=500, psi_windows=2)
RNG = np.random.default_rng(0)
REFERENCE = make_reference(["a", "b"], RNG.normal(size=(10_000, 2)), RNG.random(10_000))
COLUMNS = {"a": 0, "b": 1}


def made(reference: Reference | None = REFERENCE) -> PsiMonitor:
    return PsiMonitor(SETTINGS, reference, COLUMNS)


def feed(
    monitor: PsiMonitor, matrix: np.ndarray, scores: np.ndarray, first: int, size: int = 500
) -> list[PsiFinding]:
    """Feed rows in pieces that fit."""
    found: list[PsiFinding] = []
    at = 0
    while at < len(matrix):
        end = at + min(size, monitor.room)
        offsets = np.arange(first + at, first + min(end, len(matrix)))
        found += monitor.add_rows(offsets, offsets * 10, matrix[at:end], scores[at:end])
        at = end
    return found


def rows(seed: int, n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, 2)).astype(np.float32)
    matrix[:, 0] += shift
    return matrix, rng.random(n)


def test_a_shift_is_suspected_confirmed_and_over() -> None:
    monitor = made()
    assert feed(monitor, *rows(1, 1_000), 0) == []
    found = feed(monitor, *rows(2, 1_500, 1.0), 1_000)
    assert [(f.verdict, f.subject) for f in found] == [("suspected", "a"), ("detected", "a")]
    assert found[1].window.first_offset == 1_500
    assert found[1].window.last_offset == 1_999
    assert found[1].window.rows == 500
    assert found[1].since == 10_000
    assert monitor.confirmed == ("a",)
    assert [f.verdict for f in feed(monitor, *rows(3, 500), 2_500)] == ["recovered"]
    assert monitor.confirmed == ()


def test_one_odd_window_is_not_confirmed() -> None:
    monitor = made()
    feed(monitor, *rows(1, 500, 1.0), 0)
    feed(monitor, *rows(2, 500), 500)
    found = feed(monitor, *rows(3, 500, 1.0), 1_000)
    assert [f.verdict for f in found] == ["suspected"]


def test_score_is_compared_too() -> None:
    matrix, scores = rows(1, 1_000)
    found = feed(made(), matrix, scores**3, 0)
    assert {f.subject for f in found} == {"score"}


@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarm(seed: int) -> None:
    assert feed(made(), *rows(seed, 10_000), 0) == []


def test_without_reference_nothing_is_compared() -> None:
    monitor = made(None)
    assert not monitor.is_comparing
    assert feed(monitor, *rows(1, 2_000, 3.0), 0) == []


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 499), st.integers(0, 2_500))
def test_pieces_and_restored_state_make_no_difference(size: int, cut: int) -> None:
    matrix, scores = rows(7, 2_500, 0.8)
    expected = feed(made(), matrix, scores, 0)
    first = made()
    found = feed(first, matrix[:cut], scores[:cut], 0, size)
    again = made()
    again.restore(first.state())
    found += feed(again, matrix[cut:], scores[cut:], cut, size)
    assert found == expected
