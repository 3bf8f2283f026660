"""Between Arrow columns and tensors, without copies where the columns allow it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from penstock_schemas.errors import (
    FatalError,
    ModelRejected,
    RecordError,
    RuleViolation,
    ShapeMismatch,
)

from penstock_inference.model_server import Matrix

Rows = npt.NDArray[np.int64]
RowErrors = list[tuple[int, RecordError]]


def feature_matrix(column: pa.ListArray, width: int) -> tuple[Matrix, Rows, RowErrors]:
    """Return the rows of a list<float> column that the model can take.

    Parameters
    ----------
    column
        n lists of float32, no nulls.
    width
        Number of features of the model.

    Returns
    -------
    The matrix, shape (m, width), float32, C-contiguous, a view of the column when every row is
    good; the row in ``column`` of each, shape (m,), ascending; and (row, why) of the others:
    ShapeMismatch for a wrong number of features, RuleViolation for NaN or Inf.

    Examples
    --------
    >>> column = pa.array([[1, 2], [3], [4, float("nan")]], pa.list_(pa.float32()))
    >>> matrix, rows, errors = feature_matrix(column, 2)
    >>> matrix.tolist(), rows.tolist(), [type(e).__name__ for _, e in errors]
    ([[1.0, 2.0]], [0], ['ShapeMismatch', 'RuleViolation'])
    """
    offsets = column.offsets.to_numpy()
    lengths = np.diff(offsets)
    fits = lengths == width
    errors: RowErrors = [
        (
            row,
            ShapeMismatch(
                "wrong number of features",
                field="features",
                expected=f"{width} features",
                got=str(int(lengths[row])),
            ),
        )
        for row in np.flatnonzero(~fits).tolist()
    ]
    # flatten() honours the column's own offset, .values does not.
    flat = column.flatten().to_numpy()
    if errors:
        starts = offsets[:-1][fits] - offsets[0]
        matrix = flat[starts[:, None] + np.arange(width)]
    else:
        matrix = flat.reshape(len(column), width)
    rows = np.flatnonzero(fits)
    finite = np.isfinite(matrix)
    if not finite.all():  # whole first: along an axis it costs ten times as much
        finite = finite.all(axis=1)
        errors.extend(_not_finite(matrix, rows, finite))
        errors.sort(key=lambda item: item[0])
        matrix, rows = matrix[finite], rows[finite]
    return matrix, rows, errors


def _not_finite(matrix: Matrix, rows: Rows, finite: npt.NDArray[np.bool_]) -> RowErrors:
    result: RowErrors = []
    for at in np.flatnonzero(~finite).tolist():
        index = int(np.flatnonzero(~np.isfinite(matrix[at]))[0])
        result.append(
            (
                int(rows[at]),
                RuleViolation(
                    "a feature is not finite",
                    field=f"features[{index}]",
                    expected="a finite number",
                    got=str(matrix[at, index]),
                    stage="infer",
                ),
            )
        )
    return result


def list_column(
    matrix: npt.NDArray[Any], empty: npt.NDArray[np.bool_] | None = None
) -> pa.ListArray:
    """Return a matrix, shape (n, k), as n lists of float32; a view where it is one already.

    Parameters
    ----------
    empty
        Shape (n,): the rows that are to be empty lists; None where there is none.

    Examples
    --------
    >>> list_column(np.array([[0.25], [0.5]])).to_pylist()
    [[0.25], [0.5]]
    """
    n, k = matrix.shape
    if empty is not None:
        flat = np.asarray(matrix[~empty], dtype=np.float32).reshape(-1)
        ends = np.concatenate([[0], np.cumsum(~empty)]).astype(np.int32) * np.int32(k)
        return pa.ListArray.from_arrays(pa.array(ends), pa.array(flat))
    flat = np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1)
    ends = np.arange(n + 1, dtype=np.int32) * np.int32(k)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(flat))


def checked_scores(scores: Any, rows: int, doing: str) -> Matrix:
    """Return what a model has answered if it is a matrix of numbers with ``rows`` rows.

    Raises
    ------
    FatalError
        It is not.
    """
    if scores is None or scores.ndim != 2 or len(scores) != rows or scores.dtype.kind not in "fiu":
        shape = None if scores is None else f"{scores.dtype}{list(scores.shape)}"
        raise FatalError(f"{doing}: expected scores of {rows} rows, got {shape}")
    matrix: Matrix = scores
    return matrix


def finite_scores(scores: Matrix) -> RowErrors:
    """Return (row, why) of the rows with a score that is not finite, ascending."""
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    return [
        (
            row,
            ModelRejected(
                "the model's output is not finite",
                field="scores",
                expected="finite numbers",
                got=str(scores[row].tolist())[:60],
            ),
        )
        for row in bad.tolist()
    ]
