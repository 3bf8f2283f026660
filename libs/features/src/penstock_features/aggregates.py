"""Running values per entity, decayed by half-life, over an entity's earlier events.

An event is seen with weight 0.5 ** (age / half-life). Weighted mean and variance follow West's
incremental update, which has no cancellation of large squares.

State vector of one entity, float64: ``[layout id, last event time in ms, group, group, …]`` with
``group = [weight, mean, sum of squared deviations, maximum]``. Aggregates over the same field with
the same half-life share a group. The layout id is a hash of the groups, so that a state written
under another pipeline.yaml is recognised and never misread. In the changelog a vector is its
little-endian bytes.

References
----------
D. H. D. West, "Updating mean and variance estimates: an improved method", Communications of the
ACM 22(9), 1979; decay multiplies weight and sum of squared deviations before each update.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from penstock_pipelines.model import PipelineConfig

from penstock_features.arrow_columns import Floats, numbers

LAYOUT_ID: Final = 0
LAST_TIME: Final = 1
HEAD: Final = 2
"""Numbers before the first group."""
GROUP: Final = 4
"""Numbers per group: weight, mean, sum of squared deviations, maximum."""

FUNCTIONS: Final = ("count", "sum", "mean", "std", "max", "zscore", "ratio", "since_last")
COUNT, SUM, MEAN, STD, MAX, ZSCORE, RATIO, SINCE_LAST = range(len(FUNCTIONS))
_VERSION: Final = 1
FORGOTTEN: Final = 1e-9
"""A history of less weight (30 half-lives after a single event) counts as none."""
BIGGEST: Final = 1e100
"""Larger values are accumulated as this, so that no square ever overflows."""
Rows = npt.NDArray[np.int64]


class AggregateLayout:
    """The aggregates of one pipeline as arrays, the form that the kernel takes.

    Attributes
    ----------
    names
        The aggregate features, in the order of pipeline.yaml.
    fields
        Event fields that are aggregated, each once.
    width
        Length of a state vector.
    layout_id
        An integer below 2**53, exact in float64.
    group_field
        Shape (groups,): index into ``fields``; -1 for a group that only counts.
    group_rate
        Shape (groups,): 1 / half-life, per millisecond.
    functions, feature_group
        Shape (features,): which of `FUNCTIONS`, and over which group (-1 for since_last).
    """

    def __init__(self, config: PipelineConfig) -> None:
        groups: dict[tuple[str | None, float], int] = {}
        fields: dict[str, int] = {}
        names: list[str] = []
        functions: list[int] = []
        feature_group: list[int] = []
        for feature in config.features:
            aggregate = feature.aggregate
            if aggregate is None:
                continue
            group = -1
            if aggregate.function != "since_last":
                if aggregate.of is not None:
                    fields.setdefault(aggregate.of, len(fields))
                group = groups.setdefault((aggregate.of, aggregate.half_life_s), len(groups))
            names.append(feature.name)
            functions.append(FUNCTIONS.index(aggregate.function))
            feature_group.append(group)
        self.names = tuple(names)
        self.fields = tuple(fields)
        self.width = HEAD + GROUP * len(groups)
        self.functions = np.array(functions, dtype=np.int64)
        self.feature_group = np.array(feature_group, dtype=np.int64)
        self.group_field = np.array(
            [-1 if of is None else fields[of] for of, _ in groups], dtype=np.int64
        )
        self.group_rate = np.array([0.001 / half_life for _, half_life in groups], dtype=np.float64)
        self.layout_id = _layout_id(list(groups))

    def values(self, columns: pa.RecordBatch) -> Floats:
        """Return the aggregated fields of events, shape (n, fields), float64; NaN where null."""
        result = np.empty((columns.num_rows, len(self.fields)), dtype=np.float64)
        for index, name in enumerate(self.fields):
            result[:, index] = numbers(columns.column(name), name)
        return result

    def fresh(self, rows: int) -> npt.NDArray[np.float64]:
        """Return state vectors of entities without history, shape (rows, width)."""
        state = np.zeros((rows, self.width), dtype=np.float64)
        state[:, LAYOUT_ID] = self.layout_id
        state[:, LAST_TIME] = np.nan
        return state


def _layout_id(groups: list[tuple[str | None, float]]) -> float:
    digest = hashlib.sha256(json.dumps([_VERSION, groups]).encode()).digest()
    return float(int.from_bytes(digest[:6], "big"))


@numba.njit(cache=True)
def _feature(function: int, group: npt.NDArray[np.float64], value: float) -> float:
    """Return one aggregate of a decayed group; NaN where it is not defined."""
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
        self._changed = np.zeros(64, dtype=np.bool_)

    def __len__(self) -> int:
        return len(self._keys)

    def update(
        self, keys: pa.Array | Sequence[str], times_ms: npt.NDArray[np.int64], values: Floats
    ) -> Floats:
        """Return each event's aggregates as of just before it, then add the event.

        Parameters
        ----------
        keys
            Entity of each event, n strings.
        times_ms
            Event times, shape (n,). An event older than its entity's last one counts as now.
        values
            Shape (n, fields of the layout); a value that is not finite is not added.

        Returns
        -------
        Shape (n, features), float64; NaN where there is no history or the aggregate is not defined.
        """
        rows = self._locate(keys, add=True)
        self._changed[rows] = True
        return self._apply(rows, times_ms, values, update=True)

    def peek(
        self, keys: pa.Array | Sequence[str], times_ms: npt.NDArray[np.int64], values: Floats
    ) -> Floats:
        """Return what `update` would for each event alone, and change nothing."""
        return self._apply(self._locate(keys, add=False), times_ms, values, update=False)

    def latest_aggregates(self, rows: Rows) -> Floats:
        """Return the aggregates of rows as of their last event, that event included.

        Shape (rows, features); NaN for zscore and ratio, which are about one event.
        """
        none = np.full((len(rows), len(self.layout.fields)), np.nan)
        return self._apply(rows, self._state[rows, LAST_TIME], none, update=False)

    def changed_rows(self) -> Rows:
        """Return the rows changed since the last call, ascending."""
        rows: Rows = np.flatnonzero(self._changed[: len(self)])
        self._changed[rows] = False
        return rows

    def keys(self, rows: Rows) -> list[str]:
        """Return the entity keys of rows."""
        return [self._keys[row] for row in rows.tolist()]

    def vectors(self, rows: Rows) -> Floats:
        """Return a copy of the state vectors of rows, shape (rows, width)."""
        return self._state[rows]

    def load_vectors(self, keys: Sequence[str], vectors: Floats) -> int:
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
            self._changed = np.concatenate([self._changed, np.zeros(more, dtype=np.bool_)])

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


def pack_rows(table: AggregateTable, rows: Rows) -> tuple[list[bytes], list[bytes]]:
    """Return keys (UTF-8) and payloads of rows of a table, for the changelog."""
    size = 8 * table.layout.width
    data = np.ascontiguousarray(table.vectors(rows), dtype="<f8").tobytes()
    payloads = [data[at : at + size] for at in range(0, len(data), size)]
    return [key.encode() for key in table.keys(rows)], payloads


def unpack_into(table: AggregateTable, keys: Sequence[bytes], payloads: Sequence[bytes]) -> int:
    """Load payloads into a table; later duplicates win.

    Returns
    -------
    How many were ignored because they were written under another layout.
    """
    size = 8 * table.layout.width
    fitting = [i for i, payload in enumerate(payloads) if len(payload) == size]
    ignored = len(payloads) - len(fitting)
    if fitting:
        data = b"".join(payloads[i] for i in fitting)
        vectors = np.frombuffer(data, dtype="<f8").reshape(len(fitting), table.layout.width)
        ignored += table.load_vectors([keys[i].decode() for i in fitting], vectors)
    return ignored
