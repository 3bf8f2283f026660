"""Running values per entity, decayed by half-life, over an entity's earlier events.

An event is seen with weight 0.5 ** (age / half-life). Weighted mean and variance follow West's
incremental update, which has no cancellation of large squares.

References
----------
D. H. D. West, "Updating mean and variance estimates: an improved method", Communications of the
ACM 22(9), 1979; decay multiplies weight and sum of squared deviations before each update.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from penstock_pipelines.model import PipelineConfig

from penstock_features.aggregate_layout import (
    COUNT,
    GROUP,
    HEAD,
    LAST_TIME,
    LAYOUT_ID,
    MAX,
    MEAN,
    RATIO,
    SINCE_LAST,
    STD,
    SUM,
    AggregateLayout,
)
from penstock_features.arrow_columns import Floats

FORGOTTEN: Final = 1e-9
"""A history that weighs less (30 half-lives after a single event) is no history."""
BIGGEST: Final = 1e100
"""Larger values are accumulated as this, so that no square ever overflows."""
Rows = npt.NDArray[np.int64]


@numba.njit(cache=True)
def _feature(function: int, group: npt.NDArray[np.float64], value: float) -> float:
    """Return one aggregate of a decayed group; NaN where there is no answer."""
    weight, mean, squares, largest = group
    if weight < FORGOTTEN:
        return np.nan
    if function == COUNT:
        return weight  # type: ignore[no-any-return]
    if function == SUM:
        return weight * mean  # type: ignore[no-any-return]
    if function == MEAN:
        return mean  # type: ignore[no-any-return]
    if function == MAX:
        return largest  # type: ignore[no-any-return]
    if function == RATIO:
        return value / mean if abs(mean) > 1e-12 else np.nan
    deviation = np.sqrt(max(squares, 0.0) / weight)
    if function == STD:
        return deviation  # type: ignore[no-any-return]
    return (value - mean) / deviation if deviation > 1e-9 * max(1.0, abs(mean)) else np.nan


@numba.njit(cache=True)
def _decay(state: Any, row: int, dt: float, rates: Any, groups: Any) -> None:
    """Copy the groups of a row into ``groups``, decayed by ``dt`` milliseconds."""
    for g in range(rates.shape[0]):
        at = HEAD + GROUP * g
        factor = 2.0 ** (-dt * rates[g])
        weight = state[row, at] * factor
        if weight < FORGOTTEN:
            groups[g, :] = 0.0
            continue
        groups[g, 0] = weight
        groups[g, 1] = state[row, at + 1]
        groups[g, 2] = state[row, at + 2] * factor
        groups[g, 3] = state[row, at + 3] * factor


@numba.njit(cache=True)
def _accumulate(group: Any, value: float) -> None:
    """Add one value to a decayed group."""
    before = group[0]
    weight = before + 1.0
    delta = value - group[1]
    group[0] = weight
    group[1] += delta / weight
    group[2] += delta * (value - group[1])
    group[3] = value if before == 0.0 else max(group[3], value)


@numba.njit(cache=True)
def _run(state: Any, rows: Any, times: Any, values: Any, plan: Any, out: Any, update: bool) -> None:
    """Go through the events in order: features as of just before each, then the update."""
    group_field, rates, functions, feature_group = plan
    groups = np.zeros((max(rates.shape[0], 1), GROUP))
    for i in range(rows.shape[0]):
        row = rows[i]
        if row < 0:
            out[i, :] = np.nan
            continue
        last = state[row, LAST_TIME]
        dt = max(times[i] - last, 0.0) if last == last else np.nan
        _decay(state, row, dt if last == last else 0.0, rates, groups)
        for f in range(functions.shape[0]):
            if functions[f] == SINCE_LAST:
                out[i, f] = dt / 1000.0
                continue
            field = group_field[feature_group[f]]
            value = values[i, field] if field >= 0 else 0.0
            value = min(max(value, -BIGGEST), BIGGEST) if np.isfinite(value) else np.nan
            out[i, f] = _feature(functions[f], groups[feature_group[f]], value)
        if not update:
            continue
        for g in range(rates.shape[0]):
            value = values[i, group_field[g]] if group_field[g] >= 0 else 0.0
            if np.isfinite(value):
                _accumulate(groups[g], min(max(value, -BIGGEST), BIGGEST))
            at = HEAD + GROUP * g
            state[row, at : at + GROUP] = groups[g]
        state[row, LAST_TIME] = times[i] if last != last else max(last, times[i])


class AggregateTable:
    """Aggregates of many entities: one growing matrix, one row per entity.

    Memory grows with the number of entities: about 8 · width bytes and the key each.
    Not thread-safe.

    Parameters
    ----------
    config
        The pipeline, or the layout made from it.
    """

    def __init__(self, config: PipelineConfig | AggregateLayout) -> None:
        self.layout = config if isinstance(config, AggregateLayout) else AggregateLayout(config)
        self._plan = (
            self.layout.group_field,
            self.layout.group_rate,
            self.layout.functions,
            self.layout.feature_group,
        )
        self._rows: dict[str, int] = {}
        self._keys: list[str] = []
        self._state = self.layout.fresh(64)
        self._touched = np.zeros(64, dtype=np.bool_)

    def __len__(self) -> int:
        return len(self._keys)

    def update(
        self, keys: pa.Array | Sequence[str], times_ms: npt.NDArray[np.int64], values: Floats
    ) -> Floats:
        """Return each event's aggregates as of just before it, then take the event in.

        Parameters
        ----------
        keys
            Entity of each event, n strings.
        times_ms
            Event times, shape (n,). An event older than its entity's last one counts as now.
        values
            Shape (n, fields of the layout); a value that is not finite is not taken in.

        Returns
        -------
        Shape (n, features), float64; NaN where there is no history or no answer.
        """
        rows = self._locate(keys, add=True)
        self._touched[rows] = True
        return self._apply(rows, times_ms, values, update=True)

    def peek(
        self, keys: pa.Array | Sequence[str], times_ms: npt.NDArray[np.int64], values: Floats
    ) -> Floats:
        """Return what `update` would for each event alone, and change nothing."""
        return self._apply(self._locate(keys, add=False), times_ms, values, update=False)

    def latest(self, rows: Rows) -> Floats:
        """Return the aggregates of rows as of their last event, that event included.

        Shape (rows, features); NaN for zscore and ratio, which are about one event.
        """
        none = np.full((len(rows), len(self.layout.fields)), np.nan)
        return self._apply(rows, self._state[rows, LAST_TIME], none, update=False)

    def touched(self) -> Rows:
        """Return the rows changed since the last call, ascending."""
        rows: Rows = np.flatnonzero(self._touched[: len(self)])
        self._touched[rows] = False
        return rows

    def keys(self, rows: Rows) -> list[str]:
        """Return the entity keys of rows."""
        return [self._keys[row] for row in rows.tolist()]

    def vectors(self, rows: Rows) -> Floats:
        """Return a copy of the state vectors of rows, shape (rows, width)."""
        return self._state[rows]

    def load(self, keys: Sequence[str], vectors: Floats) -> int:
        """Set the state vectors of entities; later duplicates win.

        Returns how many were ignored because they were written under another layout.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.layout.width:
            return len(keys)
        known = np.flatnonzero(vectors[:, LAYOUT_ID] == self.layout.layout_id)
        rows = self._locate([keys[i] for i in known.tolist()], add=True)
        self._state[rows] = vectors[known]
        return len(keys) - len(known)

    def _locate(self, keys: pa.Array | Sequence[str], *, add: bool) -> Rows:
        column = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
        encoded = column.dictionary_encode()  # one look-up per entity, not per event
        entities = encoded.dictionary.to_pylist()
        rows = np.empty(len(entities), dtype=np.int64)
        for i, key in enumerate(entities):
            row = self._rows.get(key, -1)
            if row < 0 and add:
                row = self._rows[key] = len(self._keys)
                self._keys.append(key)
            rows[i] = row
        self._reserve(len(self._keys))
        located: Rows = rows[encoded.indices.to_numpy()]
        return located

    def _reserve(self, rows: int) -> None:
        if rows > len(self._state):
            more = max(rows, 2 * len(self._state)) - len(self._state)
            self._state = np.concatenate([self._state, self.layout.fresh(more)])
            self._touched = np.concatenate([self._touched, np.zeros(more, dtype=np.bool_)])

    def _apply(
        self, rows: Rows, times: npt.NDArray[Any], values: Floats, *, update: bool
    ) -> Floats:
        out = np.empty((len(rows), len(self.layout.functions)), dtype=np.float64)
        _run(self._state, rows, times.astype(np.float64), values, self._plan, out, update)
        return out


def warm_up(config: PipelineConfig) -> None:
    """Load or compile the kernel, so that the first batch does not wait for it."""
    table = AggregateTable(config)
    times = np.zeros(1, dtype=np.int64)
    table.update(["warm-up"], times, np.zeros((1, len(table.layout.fields))))
