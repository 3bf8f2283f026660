"""The strict judge against fastavro: what the latter wrote passes, every proper prefix does not."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_schemas.avro_rows import check_datum
from penstock_schemas.avro_schema import parse_type
from penstock_schemas.codec import encode_one
from penstock_schemas.errors import DecodeError

SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "s", "type": "string"},
            {"name": "n", "type": "long"},
            {"name": "b", "type": ["null", "bytes", "boolean"]},
            {"name": "f", "type": {"type": "array", "items": "float"}},
            {"name": "m", "type": {"type": "map", "values": {"type": "array", "items": "int"}}},
            {"name": "x", "type": {"type": "fixed", "name": "X", "size": 3}},
        ],
    }
)
PARSED = parse_type(SCHEMA)
ROWS = st.fixed_dictionaries(
    {
        "s": st.text(st.characters(codec="utf-8")),
        "n": st.integers(-(2**63), 2**63 - 1),
        "b": st.none() | st.binary(max_size=5) | st.booleans(),
        "f": st.lists(st.floats(width=32), max_size=4),
        "m": st.dictionaries(
            st.text("ab"), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2), max_size=2
        ),
        "x": st.binary(min_size=3, max_size=3),
    }
)


@settings(deadline=None, max_examples=150)
@given(ROWS, st.data())
def test_whole_records_pass_and_parts_do_not(row: dict, data: st.DataObject) -> None:
    value = encode_one(SCHEMA, 1, row)
    check_datum(value, 5, PARSED)
    with pytest.raises(DecodeError):
        check_datum(value[: data.draw(st.integers(5, len(value) - 1))], 5, PARSED)
    with pytest.raises(DecodeError, match="trailing"):
        check_datum(value + b"\x00", 5, PARSED)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=80))
def test_any_bytes_pass_or_are_a_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        check_datum(data, 0, PARSED)


@pytest.mark.parametrize(
    ("data", "field", "expected"),
    [
        (b"", "s", "a number"),
        (b"\x02", "s", "1 bytes"),
        (b"\x02\xff", "s", "UTF-8"),
        (b"\x01", "s", "a length"),
        (b"\x00" + b"\xff" * 11, "n", "a number of at most 10 bytes"),
        (b"\x00" + b"\xff" * 9 + b"\x7f", "n", "64-bit number"),
        (b"\x00\x00\x06", "b", "union branch below 3"),
        (b"\x00\x00\x04\x02", "b", "boolean"),
        (b"\x00\x00\x00\x02\x00", "f", "4 bytes"),
    ],
)
def test_the_field_at_fault_is_named(data: bytes, field: str, expected: str) -> None:
    with pytest.raises(DecodeError) as caught:
        check_datum(data, 0, PARSED)
    assert (caught.value.field, caught.value.expected) == (field, expected)


def test_inner_fields_are_named_by_their_path() -> None:
    inner = {"type": "record", "name": "I", "fields": [{"name": "k", "type": "int"}]}
    outer = {"type": "record", "name": "O", "fields": [{"name": "i", "type": inner}]}
    with pytest.raises(DecodeError) as caught:
        check_datum(b"", 0, parse_type(json.dumps(outer)))
    assert caught.value.field == "i.k"
