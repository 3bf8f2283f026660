from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_inference.tensors import feature_matrix, finite_scores, list_column

FLOATS = st.floats(width=32)
LISTS = pa.list_(pa.float32())


@settings(deadline=None)
@given(st.lists(st.lists(FLOATS, max_size=4), max_size=20), st.integers(1, 3), st.integers(0, 3))
def test_every_row_is_in_the_matrix_or_has_its_reason(
    rows: list[list[float]], width: int, skip: int
) -> None:
    column = pa.array(rows, LISTS)[skip:]
    rows = rows[skip:]
    matrix, good, errors = feature_matrix(column, width)
    assert sorted([*good.tolist(), *(row for row, _ in errors)]) == list(range(len(rows)))
    assert matrix.dtype == np.float32
    assert matrix.shape == (len(good), width)
    for at, row in enumerate(good.tolist()):
        assert matrix[at].tolist() == rows[row]
    for row, error in errors:
        is_short = len(rows[row]) != width
        assert error.dead_letter_class == ("shape" if is_short else "rule")


def test_good_rows_are_not_copied() -> None:
    column = pa.array([[1.0, 2.0], [3.0, 4.0]], LISTS)
    matrix, _, _ = feature_matrix(column, 2)
    assert np.shares_memory(matrix, column.values.to_numpy())
    back = list_column(matrix)
    assert np.shares_memory(back.values.to_numpy(), matrix)
    assert back.equals(column)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_score_that_is_not_finite_is_found(bad: float) -> None:
    scores = np.array([[0.1], [bad], [0.3]], dtype=np.float32)
    ((row, error),) = finite_scores(scores)
    assert row == 1
    assert error.dead_letter_class == "model"
