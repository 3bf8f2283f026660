"""The population stability index."""

from __future__ import annotations

import numpy as np
import pytest
from penstock_monitoring.psi import psi


def test_is_zero_for_equal_shares_and_grows_with_the_distance() -> None:
    reference = np.array([100] * 10)
    assert psi(reference, reference * 3) == pytest.approx(0.0, abs=1e-4)
    moved = [psi(reference, reference + np.arange(10) * step) for step in (5, 20, 80)]
    assert moved == sorted(moved)
    assert moved[0] > 0


def test_is_the_same_both_ways() -> None:
    one, other = np.array([500, 300, 200]), np.array([200, 300, 500])
    assert psi(one, other) == pytest.approx(psi(other, one))


def test_is_known_for_a_textbook_case() -> None:
    # (0.5 - 0.6) ln(0.5 / 0.6) + (0.5 - 0.4) ln(0.5 / 0.4), with large counts
    expected = 0.1 * np.log(0.6 / 0.5) + 0.1 * np.log(0.5 / 0.4)
    got = psi(np.array([600_000, 400_000]), np.array([500_000, 500_000]))
    assert got == pytest.approx(expected, rel=1e-4)


def test_an_empty_bin_is_no_infinity() -> None:
    assert np.isfinite(psi(np.array([0, 1000]), np.array([1000, 0])))


def test_sampling_alone_stays_below_a_tenth_of_the_usual_threshold() -> None:
    rng = np.random.default_rng(3)
    reference = rng.multinomial(10_000, [0.1] * 10)
    values = [psi(reference, rng.multinomial(5_000, [0.1] * 10)) for _ in range(500)]
    assert max(values) < 0.02


def test_other_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 bins, got 3"):
        psi(np.array([1, 2]), np.array([1, 2, 3]))
