"""The bounded error of a prediction."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from penstock_monitoring.error import bounded_log_loss


@given(st.floats(0.0, 1.0), st.sampled_from([0.0, 1.0]))
def test_is_between_zero_and_one(score: float, label: float) -> None:
    error = bounded_log_loss(np.array([label]), np.array([score]))[0]
    assert 0.0 <= error <= 1.0


def test_grows_with_the_distance_from_the_label() -> None:
    scores = np.linspace(0.0, 1.0, 21)
    of_one = bounded_log_loss(np.ones(21), scores)
    assert np.all(np.diff(of_one) <= 0)
    np.testing.assert_allclose(bounded_log_loss(np.zeros(21), scores), of_one[::-1])
