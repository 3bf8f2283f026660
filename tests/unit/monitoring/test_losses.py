"""The bounded error of a prediction."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from penstock_monitoring.losses import bounded_log_loss, expected_log_loss


@given(st.floats(0.0, 1.0), st.sampled_from([0.0, 1.0]))
def test_is_between_zero_and_one(score: float, label: float) -> None:
    error = bounded_log_loss(np.array([label]), np.array([score]))[0]
    assert 0.0 <= error <= 1.0


def test_grows_with_the_distance_from_the_label() -> None:
    scores = np.linspace(0.0, 1.0, 21)
    of_one = bounded_log_loss(np.ones(21), scores)
    assert np.all(np.diff(of_one) <= 0)
    np.testing.assert_allclose(bounded_log_loss(np.zeros(21), scores), of_one[::-1])


def test_a_calibrated_model_gets_what_it_expects() -> None:
    rng = np.random.default_rng(1)
    for risk in (0.05, 0.5, 3.0):
        scores = rng.beta(risk, 1.2, 200_000)
        labels = (rng.random(200_000) < scores).astype(np.float64)
        excess = bounded_log_loss(labels, scores) - expected_log_loss(scores)
        assert abs(excess.mean()) < 0.009, "but for the cut at either end"


def test_expectation_is_largest_where_the_model_knows_nothing() -> None:
    expected = expected_log_loss(np.linspace(0.0, 1.0, 101))
    assert np.argmax(expected) == 50
    assert expected.min() > 0.0
