"""Where each aggregate of a pipeline lies in an entity's state vector.

State vector of one entity, float64: ``[layout id, last event time in ms, group, group, …]`` with
``group = [weight, mean, sum of squared deviations, maximum]``. Aggregates over the same field with
the same half-life share a group. The layout id is made from the groups, so that a state written
under another pipeline.yaml is recognised and never misread.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

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


class AggregateLayout:
    """The aggregates of one pipeline, as the kernel wants them.

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
