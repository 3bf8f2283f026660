"""A tiny pipeline with every kind of feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from penstock_pipelines.model import PipelineConfig


@pytest.fixture
def config() -> PipelineConfig:
    return PipelineConfig.model_validate(
        {
            "pipeline": "tiny",
            "event": {"key": "account"},
            "features": [
                {"name": "amount", "from": "amount"},
                {"name": "amount_log", "from": "amount", "transform": "log1p"},
                {"name": "age", "from": "age", "missing": "impute", "default": 7.5},
                {"name": "hour_sin", "from": "event_time", "transform": "hour_sin"},
                {"name": "hour_cos", "from": "event_time", "transform": "hour_cos"},
                {"name": "weekday", "from": "event_time", "transform": "weekday"},
                {"name": "present", "from": "present", "transform": "is_true"},
                {"name": "kind", "from": "kind", "transform": "one_hot", "values": ["a", "b"]},
                {"name": "n", "aggregate": {"function": "count", "half_life_s": 60}},
                {"name": "total", "aggregate": {"function": "sum", "of": "amount"}},
                {"name": "mean", "aggregate": {"function": "mean", "of": "amount"}, "default": -1},
                {"name": "std", "aggregate": {"function": "std", "of": "amount"}, "log1p": True},
                {"name": "top", "aggregate": {"function": "max", "of": "amount"}},
                {"name": "z", "aggregate": {"function": "zscore", "of": "amount"}},
                {"name": "ratio", "aggregate": {"function": "ratio", "of": "amount"}, "default": 1},
                {"name": "gap", "aggregate": {"function": "since_last"}, "default": 99},
                {"name": "limit", "feast": "profile:limit", "log1p": True, "default": 3},
            ],
            "feast": {
                "entity": "account_id",
                "write_back": {
                    "view": "activity",
                    "fields": {"n": "n", "mean": "mean"},
                    "state": "state",
                },
            },
            "model": {"bootstrap": {"data": "x.csv"}},
        }
    )


@pytest.fixture
def events() -> Callable[..., pa.RecordBatch]:
    def make(rows: int, **replaced: Any) -> pa.RecordBatch:
        columns: dict[str, Any] = {
            "event_id": pa.array([f"e{i}" for i in range(rows)]),
            "account": pa.array([f"k{i % 3}" for i in range(rows)]),
            "event_time": pa.array(
                [1_700_000_000_000 + 1000 * i for i in range(rows)], pa.timestamp("ms")
            ),
            "amount": pa.array([float(i) for i in range(rows)]),
            "age": pa.array([float(i) for i in range(rows)]),
            "present": pa.array([i % 2 == 0 for i in range(rows)]),
            "kind": pa.array(["abc"[i % 3] for i in range(rows)]),
        }
        return pa.record_batch({**columns, **replaced})

    return make
