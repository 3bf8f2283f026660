"""TODO."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_inference.model_server import Matrix
from penstock_inference.scoring import isolate
from penstock_schemas.errors import ModelRejected, ModelUnavailable


def model(bad: set[int]) -> Callable[[Matrix], Matrix]:
    """Return a model that fails on any batch with a row whose first value is in ``bad``."""

    def infer(matrix: Matrix) -> Matrix:
        if bad & {int(v) for v in matrix[:, 0]}:
            raise ModelRejected("boom")
        return matrix[:, :1] * 2

    return infer


ZEROS = np.zeros((1, 1), dtype=np.float32)


def numbered(n: int) -> Matrix:
    return np.arange(n, dtype=np.float32).reshape(n, 1)


@given(st.integers(2, 40), st.data())
def test_exactly_the_bad_rows_are_found(n: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))
    scores, errors = isolate(model(bad), numbered(n), ZEROS, 5.0, pause=lambda _: None)
    assert {row for row, _ in errors} == bad
    good = [row for row in range(n) if row not in bad]
    assert scores[good, 0].tolist() == [2.0 * row for row in good]
    assert np.isnan(scores[sorted(bad)]).all()


def test_lone_row_is_judged_by_a_row_known_to_be_good() -> None:
    probe = np.array([[9.0]], dtype=np.float32)
    _, errors = isolate(model({0}), numbered(1), probe, 5.0, pause=lambda _: None)
    assert [row for row, _ in errors] == [0]


def test_model_that_fails_on_everything_says_nothing_about_records() -> None:
    now = iter(range(100))
    with pytest.raises(ModelUnavailable):
        isolate(
            model(set(range(10))),
            numbered(4),
            ZEROS,
            10.0,
            clock=lambda: float(next(now)),
            pause=lambda _: None,
        )


def test_row_that_failed_only_while_the_model_restarted_is_good() -> None:
    """The crash of one row takes the next calls down; they must not be blamed."""
    down = 0

    def infer(matrix: Matrix) -> Matrix:
        nonlocal down
        if down:
            down -= 1
            raise ModelRejected("not healthy")
        if (matrix[:, 0] == 3).any():
            down = 2
            raise ModelRejected("crashed")
        return matrix

    scores, errors = isolate(infer, numbered(8), ZEROS, 5.0, pause=lambda _: None)
    assert [row for row, _ in errors] == [3]
    assert [row for row in range(8) if not np.isnan(scores[row, 0])] == [0, 1, 2, 4, 5, 6, 7]
