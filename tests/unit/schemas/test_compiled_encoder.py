"""The compiled writer at the edges of its types, against the encoder of single records."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from penstock_schemas.avro_batch import batch_schema
from penstock_schemas.avro_layout import is_compiled
from penstock_schemas.avro_parser import parse_record
from penstock_schemas.codec import encode_one
from penstock_schemas.compiled_encoder import CompiledEncoder
from penstock_schemas.framing import prefix

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
    return pa.RecordBatch.from_pylist(ROWS, schema=batch_schema(SCHEMA))


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
