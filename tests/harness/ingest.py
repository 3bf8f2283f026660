"""A small pipeline of ingest with everything, its events, and batches of messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from penstock_features.arrow_columns import Floats
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.errors import FeatureStoreUnavailable, RegistryUnavailable, SchemaError
from penstock_schemas.schema_files import schema_text
from penstock_streaming.handler import MessageBatch

EVENT_ID, VECTOR_ID = 11, 12
EVENT_SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "Event",
        "fields": [
            {"name": "event_id", "type": "string"},
            {"name": "account", "type": "string"},
            {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "amount", "type": "double"},
            {"name": "age", "type": ["null", "double"], "default": None},
            {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["a", "b", "c"]}},
        ],
    }
)
PIPELINE: dict[str, Any] = {
    "pipeline": "tiny",
    "event": {"key": "account"},
    "rules": [
        {"field": "event_id", "max_length": 300_000},
        {"field": "amount", "min": 0, "max": 1000},
        {"field": "age", "max": 150},
        {"field": "account", "pattern": "[a-z0-9-]*"},
    ],
    "limits": {"max_event_bytes": 100_000},
    "features": [
        {"name": "amount_log", "from": "amount", "transform": "log1p"},
        {"name": "age", "from": "age", "missing": "impute", "default": 40},
        {"name": "kind", "from": "kind", "transform": "one_hot", "values": ["a", "b"]},
        {"name": "n", "aggregate": {"function": "count", "half_life_s": 3600}},
        {"name": "mean", "aggregate": {"function": "mean", "of": "amount"}},
        {"name": "limit", "feast": "profile:limit", "default": -1},
    ],
    "feast": {
        "entity": "account_id",
        "write_back": {"view": "activity", "fields": {"count": "n", "mean": "mean"}, "state": "s"},
    },
    "model": {"bootstrap": {"data": "x.csv"}},
}


class Online:
    """An online store of one value per known entity, which can be away."""

    def __init__(self) -> None:
        self.values = {"k0": 10.0, "k1": 11.0}
        self.is_away = False

    def read(self, keys: Sequence[str]) -> Mapping[str, Floats]:
        if self.is_away:
            raise FeatureStoreUnavailable("away")
        return {"profile:limit": np.array([self.values.get(k, np.nan) for k in keys])}


class Registry:
    """Knows one schema, and can be away."""

    def __init__(self) -> None:
        self.is_away = False

    def __call__(self, schema_id: int) -> str:
        if self.is_away:
            raise RegistryUnavailable("away")
        if schema_id != EVENT_ID:
            raise SchemaError("unknown schema id", schema_id=schema_id)
        return EVENT_SCHEMA


def event(i: int, **replaced: Any) -> dict[str, Any]:
    return {
        "event_id": f"e{i}",
        "account": f"k{i % 3}",
        "event_time": 1_700_000_000_000 + 60_000 * i,
        "amount": float(i % 7),
        "age": None if i % 4 == 0 else 30.0 + i,
        "kind": "abc"[i % 3],
        **replaced,
    }


def avro(record: Mapping[str, Any]) -> bytes:
    return encode_one(EVENT_SCHEMA, EVENT_ID, record)


def batch(
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    partitions: Sequence[int] | None = None,
    first_offset: int = 100,
) -> MessageBatch:
    n = len(values)
    return MessageBatch(
        topic="tiny.events.v1",
        messages=[],
        values=values,
        keys=[b"key"] * n if keys is None else keys,
        partitions=np.array([0] * n if partitions is None else partitions, dtype=np.int32),
        offsets=np.arange(first_offset, first_offset + n, dtype=np.int64),
    )


def vector(value: bytes) -> dict[str, Any]:
    schema = schema_text("feature_vector.avsc")
    return decode_one(value, lambda _: schema, schema)
