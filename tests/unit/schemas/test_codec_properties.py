"""The codec against fastavro, both ways, over random schemas and values."""

from __future__ import annotations

import io
import json
import string
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from penstock_schemas.avro_columns import columns_of
from penstock_schemas.avro_kernels import is_compiled
from penstock_schemas.avro_rows import parsed
from penstock_schemas.avro_schema import parse_record
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder, decode_one, encode_one

QUICK = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
INT, LONG = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
FLOAT = st.floats(width=32, allow_nan=False)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
KERNEL_TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    ("boolean", st.booleans()),
    ("int", INT),
    ("long", LONG),
    ("float", FLOAT),
    ("double", st.floats(allow_nan=False)),
    ("string", TEXT),
    ({"type": "long", "logicalType": "timestamp-millis"}, LONG),
    ({"type": "long", "logicalType": "timestamp-micros"}, LONG),
    ({"type": "int", "logicalType": "date"}, INT),
    ({"type": "long", "logicalType": "unknown-to-all"}, LONG),
]
FLOATS = [("float", FLOAT), ("double", st.floats(allow_nan=False))]
OTHER_TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    ("bytes", st.binary(max_size=12)),
    ({"type": "string", "logicalType": "uuid"}, TEXT),
    ({"type": "int", "logicalType": "time-millis"}, st.integers(0, 86_399_999)),
    (
        {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        st.decimals(-9_999_999, 9_999_999, places=2),
    ),
]


class Names:
    """Unique names of the named types of one schema."""

    def __init__(self) -> None:
        self.used = 0

    def next(self) -> str:
        self.used += 1
        return f"T{self.used}"


@st.composite
def avro_types(draw: Any, names: Names, leaves: list[Any], depth: int, *, kernel: bool) -> Any:
    """Draw (schema, strategy of values); with ``kernel`` one that the kernels read and write."""
    nested = ["floats", "record"] if kernel else ["array", "map", "record"]
    shape = draw(
        st.sampled_from(["leaf", "leaf", "leaf", "enum", "optional"] + nested * (depth < 2))
    )
    if shape == "floats":
        kind, value = draw(st.sampled_from(FLOATS))
        return {"type": "array", "items": kind}, st.lists(value, max_size=4)
    if shape == "leaf":
        return draw(st.sampled_from(leaves))
    if shape == "enum":
        symbols = draw(st.lists(st.sampled_from(list("ABCDEF")), min_size=1, unique=True))
        return {"type": "enum", "name": names.next(), "symbols": symbols}, st.sampled_from(symbols)
    if shape == "record":
        return draw(records(names, leaves, depth + 1, kernel=kernel))
    inner, values = draw(avro_types(names, leaves, depth + 1, kernel=kernel))
    if shape == "optional":
        if isinstance(inner, list):
            return inner, values
        first = draw(st.booleans())
        return (["null", inner] if first else [inner, "null"]), st.none() | values
    if shape == "array":
        return {"type": "array", "items": inner}, st.lists(values, max_size=4)
    keys = st.text(string.ascii_letters, max_size=4)
    return {"type": "map", "values": inner}, st.dictionaries(keys, values, max_size=3)


@st.composite
def records(draw: Any, names: Names, leaves: list[Any], depth: int, *, kernel: bool) -> Any:
    """Draw (record schema, strategy of rows)."""
    name, fields, values = names.next(), [], {}
    for i in range(draw(st.integers(1, 4))):
        inner, value = draw(avro_types(names, leaves, depth, kernel=kernel))
        fields.append({"name": f"f{i}", "type": inner})
        values[f"f{i}"] = value
    return {"type": "record", "name": name, "fields": fields}, st.fixed_dictionaries(values)


@st.composite
def batches(draw: Any, leaves: list[Any], kernel: bool = False) -> Any:
    """Draw (schema text, rows)."""
    schema, values = draw(records(Names(), leaves, 0, kernel=kernel))
    rows = draw(st.lists(values, min_size=9, max_size=14) | st.lists(values, max_size=3))
    return json.dumps(schema), rows


def datum(text: str, row: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, parsed(text), row)
    return stream.getvalue()


def check_decode(text: str, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    values = [b"\x00\x00\x00\x00\x07" + datum(text, row) for row in rows]
    decoder = ColumnarDecoder(text, lambda _: text)
    batch = decoder.decode(values)
    assert batch.errors == []
    assert batch.rows.tolist() == list(range(len(rows)))
    read = [fastavro.schemaless_reader(io.BytesIO(v[5:]), parsed(text), None) for v in values]
    assert batch.columns.equals(columns_of(read, decoder.schema))
    return batch.columns


def check_encode(text: str, rows: list[dict[str, Any]], columns: pa.RecordBatch) -> None:
    values = ColumnarEncoder(text, 7).encode(columns)
    assert [v[:5] for v in values] == [b"\x00\x00\x00\x00\x07"] * len(rows)
    read = [fastavro.schemaless_reader(io.BytesIO(v[5:]), parsed(text), None) for v in values]
    expected = [
        fastavro.schemaless_reader(io.BytesIO(datum(text, r)), parsed(text), None) for r in rows
    ]
    assert read == expected


@QUICK
@given(batches(KERNEL_TYPES, kernel=True))
def test_kernel_types_are_read_and_written_like_fastavro(
    drawn: tuple[str, list[dict[str, Any]]],
) -> None:
    text, rows = drawn
    assert is_compiled(parse_record(text))
    columns = check_decode(text, rows)
    check_encode(text, rows, columns)


@QUICK
@given(batches(KERNEL_TYPES + OTHER_TYPES))
def test_all_types_are_read_and_written_like_fastavro(
    drawn: tuple[str, list[dict[str, Any]]],
) -> None:
    text, rows = drawn
    columns = check_decode(text, rows)
    check_encode(text, rows, columns)


@QUICK
@given(batches(KERNEL_TYPES + OTHER_TYPES))
def test_one_record_goes_there_and_back(drawn: tuple[str, list[dict[str, Any]]]) -> None:
    text, rows = drawn
    for row in rows[:2]:
        payload = encode_one(text, 9, row)
        assert payload == b"\x00\x00\x00\x00\x09" + datum(text, row)
        expected = fastavro.schemaless_reader(io.BytesIO(payload[5:]), parsed(text), None)
        assert decode_one(payload, lambda _: text, text) == expected


@pytest.mark.parametrize("position", [0, 5, 11])
@QUICK
@given(drawn=batches(KERNEL_TYPES), junk=st.binary(min_size=1, max_size=3))
def test_trailing_bytes_hit_only_their_record(
    drawn: tuple[str, list[dict[str, Any]]], junk: bytes, position: int
) -> None:
    text, rows = drawn
    if not rows:
        return
    rows = (rows * 12)[:12]
    values = [b"\x00\x00\x00\x00\x07" + datum(text, row) for row in rows]
    values[position] += junk
    batch = ColumnarDecoder(text, lambda _: text).decode(values)
    assert [row for row, _ in batch.errors] == [position]
    assert batch.errors[0][1].dead_letter_class == "decode"
    assert batch.errors[0][1].schema_id == 7
    assert batch.rows.tolist() == [i for i in range(12) if i != position]
