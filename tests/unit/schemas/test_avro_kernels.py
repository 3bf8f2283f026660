"""The compiled reader against the strict judge of single datums and against fastavro."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_schemas.avro_decode import CompiledDecoder
from penstock_schemas.avro_kernels import is_compiled
from penstock_schemas.avro_rows import PREFIX_BYTES, check_datum, prefix
from penstock_schemas.avro_schema import parse_record
from penstock_schemas.codec import encode_one
from penstock_schemas.errors import DecodeError
from penstock_schemas.schema_files import schema_text

HEAD = prefix(7)
EVERYTHING = json.dumps(
    {
        "type": "record",
        "name": "Everything",
        "fields": [
            {"name": "text", "type": "string"},
            {"name": "number", "type": "int"},
            {"name": "long", "type": "long"},
            {"name": "flag", "type": "boolean"},
            {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["a", "b", "c"]}},
            {"name": "note", "type": ["null", "string"]},
            {"name": "amount", "type": ["double", "null"]},
            {
                "name": "inner",
                "type": [
                    "null",
                    {
                        "type": "record",
                        "name": "Inner",
                        "fields": [
                            {"name": "x", "type": "float"},
                            {"name": "name", "type": ["null", "string"]},
                        ],
                    },
                ],
            },
            {"name": "values", "type": {"type": "array", "items": "float"}},
            {"name": "wide", "type": ["null", {"type": "array", "items": "double"}]},
        ],
    }
)
RECORD = parse_record(EVERYTHING)
DECODER = CompiledDecoder(RECORD)
FLOAT = st.floats(width=32, allow_nan=False)
ROWS = st.fixed_dictionaries(
    {
        "text": st.text(st.characters(codec="utf-8"), max_size=20),
        "number": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**63), 2**63 - 1),
        "flag": st.booleans(),
        "kind": st.sampled_from("abc"),
        "note": st.none() | st.text(st.characters(codec="utf-8"), max_size=9),
        "amount": st.none() | st.floats(allow_nan=False),
        "inner": st.none()
        | st.fixed_dictionaries({"x": FLOAT, "name": st.none() | st.text("äz", max_size=3)}),
        "values": st.lists(FLOAT, max_size=5),
        "wide": st.none() | st.lists(st.floats(allow_nan=False), max_size=3),
    }
)


def is_valid(value: bytes) -> bool:
    try:
        check_datum(value, PREFIX_BYTES, RECORD)
    except DecodeError:
        return False
    return True


@settings(deadline=None)
@given(st.lists(ROWS, max_size=12))
def test_rows_come_back_as_they_were_written(rows: list[dict[str, Any]]) -> None:
    read = DECODER.decode([encode_one(EVERYTHING, 7, row) for row in rows])
    assert read.refused == []
    read.columns.validate(full=True)
    assert read.columns.to_pylist() == rows


@settings(deadline=None, max_examples=300)
@given(
    st.lists(ROWS, min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 200), st.integers(0, 255)), max_size=6),
    st.integers(0, 40),
)
def test_verdict_and_neighbours_are_those_of_the_strict_reader(
    rows: list[dict[str, Any]], changes: list[tuple[int, int, int]], cut: int
) -> None:
    values = [bytearray(encode_one(EVERYTHING, 7, row)) for row in rows]
    for row, at, byte in changes:
        value = values[row % len(values)]
        value[PREFIX_BYTES + at % (len(value) - PREFIX_BYTES)] = byte
    if cut < len(values[0]):
        del values[0][cut:]
    spoilt = [bytes(v) for v in values]
    read = DECODER.decode(spoilt)
    good = [i for i, v in enumerate(spoilt) if len(v) >= PREFIX_BYTES and is_valid(v)]
    assert read.positions.tolist() == good
    assert sorted([*read.positions.tolist(), *read.refused]) == list(range(len(spoilt)))
    read.columns.validate(full=True)
    alone = [DECODER.decode([spoilt[i]]).columns.to_pylist()[0] for i in good]
    assert repr(read.columns.to_pylist()) == repr(alone)  # by repr: a NaN equals itself


TEXT = json.dumps({"type": "record", "name": "T", "fields": [{"name": "text", "type": "string"}]})
TEXT_DECODER = CompiledDecoder(parse_record(TEXT))


@settings(deadline=None, max_examples=500)
@given(
    st.binary(max_size=6) | st.text(max_size=4).map(lambda t: t.encode("utf-8", "surrogatepass"))
)
def test_text_is_accepted_exactly_where_python_decodes_it(raw: bytes) -> None:
    try:
        expected: list[str] = [raw.decode("utf-8")]
    except UnicodeDecodeError:
        expected = []
    read = TEXT_DECODER.decode([HEAD + bytes([2 * len(raw)]) + raw])
    assert read.columns.column("text").to_pylist() == expected


LONG = json.dumps({"type": "record", "name": "L", "fields": [{"name": "n", "type": "long"}]})
LONG_DECODER = CompiledDecoder(parse_record(LONG))


@pytest.mark.parametrize(
    ("datum", "expected"),
    [
        ("00", [0]),
        ("01", [-1]),
        ("8000", [0]),  # not the shortest form, and allowed
        ("fe" + "ff" * 8 + "01", [2**63 - 1]),
        ("ff" * 9 + "01", [-(2**63)]),
        ("ff" * 9 + "02", []),  # a 65th bit
        ("80" * 10 + "00", []),  # eleven bytes
        ("80", []),
        ("", []),
        ("0000", []),  # trailing
    ],
)
def test_numbers_are_judged_as_by_the_specification(datum: str, expected: list[int]) -> None:
    read = LONG_DECODER.decode([HEAD + bytes.fromhex(datum)])
    assert read.columns.column("n").to_pylist() == expected


FLOATS = json.dumps(
    {
        "type": "record",
        "name": "F",
        "fields": [{"name": "v", "type": {"type": "array", "items": "float"}}],
    }
)
FLOATS_DECODER = CompiledDecoder(parse_record(FLOATS))
HALF = struct.pack("<f", 0.5)


@pytest.mark.parametrize(
    ("datum", "expected"),
    [
        (b"\x00", [[]]),
        (b"\x02" + HALF + b"\x02" + HALF + b"\x00", [[0.5, 0.5]]),  # two blocks
        (b"\x03\x10" + HALF * 2 + b"\x00", [[0.5, 0.5]]),  # of a declared size
        (b"\x03\x12" + HALF * 2 + b"\x00", []),  # of another one
        (b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + HALF, []),  # a length bomb
        (b"\x01" + b"\x00", []),
        (b"\xff" * 9 + b"\x01" + b"\x00" + b"\x00", []),  # the count has no positive
    ],
)
def test_blocks_are_judged_as_by_the_specification(datum: bytes, expected: list[Any]) -> None:
    read = FLOATS_DECODER.decode([HEAD + datum])
    assert read.columns.column("v").to_pylist() == expected


@pytest.mark.parametrize("name", ["feature_vector", "prediction", "observation", "interaction"])
def test_hot_schemas_are_compiled(name: str) -> None:
    assert is_compiled(parse_record(schema_text(f"{name}.avsc")))


@pytest.mark.parametrize(
    "kind", ["bytes", {"type": "map", "values": "int"}, {"type": "array", "items": "string"}]
)
def test_other_types_are_left_to_other_readers(kind: Any) -> None:
    text = json.dumps({"type": "record", "name": "O", "fields": [{"name": "o", "type": kind}]})
    assert not is_compiled(parse_record(text))


def test_batch_larger_than_the_columns_may_reserve_is_left_to_the_row_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("penstock_schemas.avro_decode._LARGEST_BYTES", 10)
    read = LONG_DECODER.decode([HEAD + b"\x00"] * 3)
    assert read.refused == [0, 1, 2]
    assert len(read.positions) == read.columns.num_rows == 0
    assert isinstance(read.positions, np.ndarray)
