"""From an event's columns, its aggregates and its online features to the model's matrix.

What each column means is declared in pipeline.yaml. The same code runs in the stream, behind REST
and over the training set, so that serving and training compute the same features.

A feature's ``default`` is the value the model sees: it stands in after the transform, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from penstock_pipelines.model import Feature, PipelineConfig
from penstock_schemas.errors import RuleViolation

from penstock_features.arrow_columns import Floats, numbers, texts

Matrix = npt.NDArray[np.float32]
LARGEST: Final = float(np.finfo(np.float32).max)
DAY_MS: Final = 86_400_000.0


def signed_log1p(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return log1p that also takes negative values: sign(x) · log(1 + |x|).

    Examples
    --------
    >>> signed_log1p(np.array([0.0, np.e - 1, 1 - np.e]))
    array([ 0.,  1., -1.])
    """
    result: npt.NDArray[Any] = np.copysign(np.log1p(np.abs(values)), values)
    return result


def _hour(function: Callable[[Floats], Floats], ms: Floats) -> Floats:
    return function(2.0 * np.pi * np.mod(ms, DAY_MS) / DAY_MS)


_NUMERIC: Final[Mapping[str, Callable[[Floats], Floats]]] = {
    "identity": lambda x: x,
    "log1p": signed_log1p,
    "hour_sin": lambda ms: _hour(np.sin, ms),
    "hour_cos": lambda ms: _hour(np.cos, ms),
    # 1 January 1970 was a Thursday; Monday is 0.
    "weekday": lambda ms: np.mod(np.floor(ms / DAY_MS) + 3.0, 7.0),
    "is_true": lambda x: np.where(np.isnan(x), np.nan, (x != 0).astype(np.float64)),
}


@dataclass(frozen=True, slots=True)
class EventPart:
    """The matrix with the event's own features filled in, and the rows that are refused.

    Parameters
    ----------
    matrix
        Shape (n, d), float32; aggregates and online features are still zero.
    violations
        (row, why) of rows with null, NaN or Inf in a field whose ``missing`` is reject; at most
        one per row, rows ascending.
    """

    matrix: Matrix
    violations: list[tuple[int, RuleViolation]]


class Vectorizer:
    """Builds feature matrices for one pipeline.

    Parameters
    ----------
    config
        The pipeline. Its field types must have been checked against the event schema.
    """

    def __init__(self, config: PipelineConfig) -> None:
        self.feature_names = config.feature_names
        self._event: list[tuple[int, Feature]] = []
        self._aggregates: list[tuple[int, Feature]] = []
        self._online: list[tuple[int, Feature]] = []
        at = 0
        for feature in config.features:
            if feature.from_field is not None:
                self._event.append((at, feature))
            elif feature.aggregate is not None:
                self._aggregates.append((at, feature))
            else:
                self._online.append((at, feature))
            at += len(feature.columns)

    def event_part(self, columns: pa.RecordBatch) -> EventPart:
        """Fill in the features computed from the event alone, and check them."""
        matrix = np.zeros((columns.num_rows, len(self.feature_names)), dtype=np.float32)
        broken: dict[int, RuleViolation] = {}
        for at, feature in self._event:
            assert feature.from_field is not None  # noqa: S101 - narrows the type
            column = columns.column(feature.from_field)
            if feature.transform == "one_hot":
                missing = _one_hot(matrix, at, feature, texts(column))
            else:
                values = numbers(column, feature.from_field)
                missing = _fill(matrix, at, _NUMERIC[feature.transform](values), feature.default)
            if feature.missing == "reject":
                _refuse(broken, missing, feature.from_field, column)
        for _, feature in self._aggregates:
            source = feature.aggregate.of if feature.aggregate else None
            if source is not None and feature.missing == "reject":
                column = columns.column(source)
                _refuse(broken, ~np.isfinite(numbers(column, source)), source, column)
        return EventPart(matrix, sorted(broken.items(), key=lambda item: item[0]))

    def complete(self, matrix: Matrix, aggregates: Floats, online: Mapping[str, Floats]) -> Matrix:
        """Fill aggregates and online features into ``matrix``, in place, and return it.

        Parameters
        ----------
        aggregates
            Shape (n, aggregate features in the order of pipeline.yaml); NaN where not known.
        online
            By ``view:feature``, shape (n,); NaN where not known.

        Returns
        -------
        Shape (n, d), float32, all finite: a value that may not be missing and is becomes its
        feature's default.
        """
        for index, (at, feature) in enumerate(self._aggregates):
            _fill(matrix, at, _maybe_log(aggregates[:, index], feature), feature.default)
        for at, feature in self._online:
            assert feature.feast is not None  # noqa: S101 - narrows the type
            _fill(matrix, at, _maybe_log(online[feature.feast], feature), feature.default)
        return matrix


def _maybe_log(values: Floats, feature: Feature) -> Floats:
    return signed_log1p(values) if feature.log1p else values


def _fill(matrix: Matrix, at: int, values: Floats, default: float) -> npt.NDArray[np.bool_]:
    """Write a column; return which rows had no finite float32 value and got the default."""
    missing = ~(np.abs(values) <= LARGEST)
    matrix[:, at] = np.where(missing, default, values)
    return missing


def _one_hot(matrix: Matrix, at: int, feature: Feature, column: pa.Array) -> npt.NDArray[np.bool_]:
    """Write one column per value; an unseen value, or none, leaves zeros."""
    found = pc.index_in(column, value_set=pa.array(feature.values, pa.string()))
    index = found.fill_null(-1).to_numpy()
    rows = np.flatnonzero(index >= 0)
    matrix[rows, at + index[rows]] = 1.0
    missing: npt.NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return missing


def _refuse(
    broken: dict[int, RuleViolation],
    missing: npt.NDArray[np.bool_],
    field: str,
    column: pa.Array,
) -> None:
    for row in np.flatnonzero(missing).tolist():
        if row not in broken:
            value = column[row].as_py()
            broken[row] = RuleViolation(
                "a required feature has no finite value",
                field=field,
                expected="a value" if isinstance(value, str) else "a finite number",
                got="null" if value is None else repr(value)[:40],
                stage="features",
            )
