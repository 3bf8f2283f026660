"""Columns to values: the bytes of single records, at the edges of the types too."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from penstock_schemas.avro_columns import arrow_schema
from penstock_schemas.avro_encode import CompiledEncoder
from penstock_schemas.avro_kernels import is_compiled
from penstock_schemas.avro_rows import prefix
from penstock_schemas.avro_schema import parse_record
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder, decode_one, encode_one
from penstock_schemas.errors import ConfigError, SchemaError
from penstock_schemas.schema_files import schema_text

PREDICTION = schema_text("prediction.avsc")


def rows(n: int) -> list[dict[str, Any]]:
    return [
        {
            "event_id": f"e{i}",
            "event_time": 1_700_000_000_000 + i,
            "predicted_at": 1_700_000_000_500 + i,
            "pipeline": "fraud",
            "model_name": "fraud",
            "model_version": "1",
            "variant": "champion",
            "scores": [0.5],
            "decision": bool(i % 2),
            "threshold": 0.25,
            "features": [float(j) for j in range(i % 5)],
            "origin": {"topic": "t", "partition": i, "offset": 2**40} if i % 3 else None,
            "attempt": "a",
            "outcome": ["predicted", "expired", "duplicate"][i % 3],
        }
        for i in range(n)
    ]


def columns(n: int) -> pa.RecordBatch:
    values = [encode_one(PREDICTION, 3, row) for row in rows(n)]
    return ColumnarDecoder(PREDICTION, lambda _: PREDICTION).decode(values).columns


@pytest.mark.parametrize("n", [0, 1, 3, 50])
def test_values_are_those_of_single_records(n: int) -> None:
    values = ColumnarEncoder(PREDICTION, 3).encode(columns(n))
    assert values == [encode_one(PREDICTION, 3, row) for row in rows(n)]
    read = [decode_one(v, lambda _: PREDICTION, PREDICTION) for v in values]
    assert read == rows(n)


def test_columns_may_come_in_another_order_sliced_and_of_wider_types() -> None:
    batch = columns(50)
    expected = ColumnarEncoder(PREDICTION, 3).encode(batch)[7:20]
    part = batch.slice(7, 13)
    part = part.select(list(reversed(part.schema.names)))
    at = part.schema.names.index("features")
    part = part.set_column(at, "features", part["features"].cast(pa.large_list(pa.float64())))
    at = part.schema.names.index("outcome")
    part = part.set_column(at, "outcome", part["outcome"].dictionary_encode())
    part = part.append_column("extra", pa.array([1] * 13))
    assert ColumnarEncoder(PREDICTION, 3).encode(part) == expected


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("event_id", pa.array([None, "b"])),
        ("event_time", pa.array([None, 1], pa.timestamp("ms"))),
        ("scores", pa.array([[None], [0.5]], pa.list_(pa.float32()))),
        ("outcome", pa.array(["predicted", "no such symbol"])),
        ("threshold", pa.array(["x", "y"])),
        ("origin", pa.array([{"topic": None, "partition": 1, "offset": 1}, None])),
    ],
)
def test_value_that_does_not_fit_is_refused(name: str, array: pa.Array) -> None:
    batch = columns(2)
    batch = batch.set_column(batch.schema.names.index(name), name, array)
    with pytest.raises(ValueError, match=r".+"):
        ColumnarEncoder(PREDICTION, 3).encode(batch)


def test_missing_column_is_named() -> None:
    batch = columns(2).drop_columns(["scores"])
    with pytest.raises(ValueError, match="scores"):
        ColumnarEncoder(PREDICTION, 3).encode(batch)


def test_null_inside_a_null_parent_is_no_null() -> None:
    batch = columns(4)
    assert batch["origin"].null_count == 2
    assert len(ColumnarEncoder(PREDICTION, 3).encode(batch)) == 4


@pytest.mark.parametrize("schema", ["", "[]", '"int"'])
def test_schema_that_is_no_record_is_a_configuration_error(schema: str) -> None:
    with pytest.raises(ConfigError):
        ColumnarEncoder(schema, 1)


def test_encode_one_refuses_what_does_not_fit() -> None:
    schema = json.dumps(
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": "string"}]}
    )
    for bad in ({}, {"a": 5}, {"a": None}):
        with pytest.raises(SchemaError):
            encode_one(schema, 1, bad)


INNER = {
    "type": "record",
    "name": "Inner",
    "fields": [{"name": "s", "type": ["null", "string"]}, {"name": "d", "type": "double"}],
}
SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "Outer",
        "fields": [
            {"name": "i", "type": "int"},
            {"name": "l", "type": ["long", "null"]},
            {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
            {"name": "b", "type": "boolean"},
            {"name": "f", "type": "float"},
            {"name": "s", "type": "string"},
            {"name": "floats", "type": ["null", {"type": "array", "items": "float"}]},
            {"name": "doubles", "type": {"type": "array", "items": "double"}},
            {"name": "r", "type": ["null", INNER]},
        ],
    }
)
ROWS: list[dict[str, Any]] = [
    {
        "i": i,
        "l": n,
        "e": "B",
        "b": True,
        "f": -0.0,
        "s": text,
        "floats": floats,
        "doubles": doubles,
        "r": r,
    }
    for i, n, text, floats, doubles, r in [
        (0, 0, "", [], [], None),
        (-(2**31), -(2**63), "ü\x00€", [float("inf")], [5e-324], {"s": None, "d": -1.5}),
        (2**31 - 1, 2**63 - 1, "x" * 70_000, None, [1.0] * 9_000, {"s": "", "d": 1e308}),
        (-1, None, "😀", [0.5] * 100, [], {"s": "in", "d": 0.0}),
        (64, -65, "a", [1.0], [-0.0], None),
    ]
]


def batch() -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(ROWS, schema=arrow_schema(parse_record(SCHEMA)))


def encoder() -> CompiledEncoder:
    record = parse_record(SCHEMA)
    assert is_compiled(record)
    return CompiledEncoder(record, prefix(5))


def test_edges_of_every_type_are_the_bytes_of_single_records() -> None:
    assert encoder().encode(batch()) == [encode_one(SCHEMA, 5, row) for row in ROWS]


@pytest.mark.parametrize("first", range(len(ROWS) + 1))
def test_slice_is_encoded_as_its_rows(first: int) -> None:
    whole = encoder().encode(batch())
    assert encoder().encode(batch().slice(first)) == whole[first:]
    assert encoder().encode(batch().slice(0, first)) == whole[:first]


def test_unknown_symbol_is_named() -> None:
    columns = batch().set_column(2, "e", pa.array(["A", "B", "C", "A", "A"]))
    with pytest.raises(ValueError, match="'C' is no symbol"):
        encoder().encode(columns)
