"""Training references: histograms and their document."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from penstock_monitoring.reference import SCORE, Reference, make_reference
from penstock_schemas.errors import ConfigError


def test_bins_hold_about_the_same_share_and_every_row_once() -> None:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(1_000, 2))
    reference = make_reference(["a", "b"], matrix, rng.random(1_000))
    assert [h.name for h in reference.histograms] == ["a", "b", SCORE]
    for histogram in reference.histograms:
        assert sum(histogram.counts) == 1_000
        assert min(histogram.counts) > 90


@pytest.mark.parametrize("share", [0.002, 0.05, 0.5, 0.998])
def test_a_column_of_two_values_keeps_both_apart(share: float) -> None:
    column = (np.arange(1_000) < share * 1_000).astype(np.float64)
    histogram = make_reference(["x"], column[:, None], column).histograms[0]
    assert histogram.counts == ((1_000 - int(share * 1_000)), int(share * 1_000))
    assert histogram.count(np.array([0.0, 1.0, 1.0])).tolist() == [1, 2]


def test_a_constant_column_has_one_bin() -> None:
    histogram = make_reference(["x"], np.full((50, 1), 3.0), np.zeros(50)).histograms[0]
    assert histogram.counts == (50,)
    assert histogram.count(np.array([1.0, 9.0])).tolist() == [2]


@given(arrays(np.float64, st.integers(2, 60), elements=st.floats(-1e6, 1e6)))
def test_any_column_is_counted_whole(column: np.ndarray) -> None:
    histogram = make_reference(["x"], column[:, None], column).histograms[0]
    assert list(histogram.edges) == sorted(set(histogram.edges))
    assert sum(histogram.counts) == len(column)
    assert min(histogram.counts) > 0


def test_document_round_trip_keeps_the_id() -> None:
    rng = np.random.default_rng(2)
    reference = make_reference(["a"], rng.normal(size=(100, 1)), rng.random(100))
    again = Reference.from_json(reference.to_json())
    assert again == reference
    assert again.reference_id == reference.reference_id
    assert reference.reference_id.startswith("sha256:")


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 1}', '{"rows": 1, "histograms": [{}]}'])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a reference"):
        Reference.from_json(text)
