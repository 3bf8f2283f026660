from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_schemas.codec import ColumnarDecoder, encode_one
from penstock_schemas.errors import DecodeError, Oversize, SchemaError


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def record(*fields: Any) -> str:
    return json.dumps({"type": "record", "name": "Event", "fields": list(fields)})


MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
POINT = {
    "type": "record",
    "name": "P",
    "fields": [field("lat", "float"), field("at", MILLIS, default=5)],
}
EVENT = record(
    field("id", "string"),
    field("n", "int"),
    field("x", ["null", "double"], default=None),
    field("at", MILLIS),
    field("kind", {"type": "enum", "name": "K", "symbols": ["a", "b"]}, default="a"),
    field("tags", {"type": "map", "values": "long"}, default={}),
    field("points", {"type": "array", "items": POINT}, default=[]),
    field("class", "boolean", default=False),  # a Python keyword
)
GOOD: dict[str, Any] = {"id": "é", "n": 1, "at": 1_700_000_000_000}


def decode(schema: str, *values: bytes):
    return ColumnarDecoder(schema, lambda _: schema, json_allowed=True).decode(values)


def one_error(schema: str, value: Any):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    batch = decode(schema, raw)
    assert batch.rows.tolist() == []
    return batch.errors[0][1]


def test_defaults_nesting_and_both_forms_of_time() -> None:
    full = {
        **GOOD,
        "x": 2,
        "at": "2023-11-14T23:13:20.000+01:00",
        "kind": "b",
        "tags": {"k": 3},
        "points": [{"lat": 1.5}, {"lat": 2, "at": "1970-01-01T00:00:00.007Z"}],
        "class": True,
        "unknown": {"ignored": [1]},
    }
    batch = decode(EVENT, json.dumps(GOOD).encode(), json.dumps(full).encode())
    assert batch.errors == []
    columns = batch.columns
    assert columns["id"].to_pylist() == ["é", "é"]
    assert columns["x"].to_pylist() == [None, 2.0]
    assert columns["at"].cast("int64").to_pylist() == [1_700_000_000_000] * 2
    assert columns["kind"].to_pylist() == ["a", "b"]
    assert columns["tags"].to_pylist() == [[], [("k", 3)]]
    points = columns["points"].to_pylist()[1]
    assert [p["lat"] for p in points] == [1.5, 2.0]
    assert [p["at"].microsecond for p in points] == [5_000, 7_000]
    assert columns["class"].to_pylist() == [False, True]


def test_json_and_avro_share_a_batch_in_order() -> None:
    raw = json.dumps(GOOD).encode()
    avro = [
        encode_one(EVENT, 7, {**GOOD, "id": f"v{i}", "kind": "b", "tags": {}, "points": []})
        for i in range(12)
    ]
    batch = decode(EVENT, *avro[:6], raw, *avro[6:], raw[:-1], b"{}")
    assert batch.rows.tolist() == list(range(13))
    assert batch.columns["id"].to_pylist()[5:8] == ["v5", "é", "v6"]
    assert [(row, type(e)) for row, e in batch.errors] == [(13, DecodeError), (14, SchemaError)]


@pytest.mark.parametrize(
    "value",
    [
        b"{",
        b'{"id": "a"',
        b'{"id": "a", "n": 1, "at": 1} x',
        b'{"id": "a", "n": 1, "at": 1}{}',
        b'{"id": "a", "n": NaN, "at": 1}',
        b'{"id": "a", "n": 1, "at": 1, "x": Infinity}',
        b'{"id": "a", "n": 1, "at": 1, "y": -Infinity}',
        b'{"id": "\xff", "n": 1, "at": 1}',
        b'{"id": "a", "n": 1, "at": 1, "unknown": "\xff"}',
        b'{"id": "\\ud800", "n": 1, "at": 1}',
        b"{'id': 'a'}",
        b'{"id": 5, "n": "mistyped", "at": 1',  # also mistyped: bad JSON wins
        b'{"id": "a", "n": 1, "at": 1, "y": ' + b"[" * 100_000,
        b'{"y": ' * 50_000,
    ],
)
def test_invalid_json_is_a_decode_error(value: bytes) -> None:
    assert type(one_error(EVENT, value)) is DecodeError


@pytest.mark.parametrize(
    ("change", "name", "got"),
    [
        ({"id": None}, "id", "null"),
        ({"id": 5}, "id", "integer"),
        ({"n": "5"}, "n", "string"),
        ({"n": 1.5}, "n", "number"),
        ({"n": True}, "n", "boolean"),
        ({"n": 2**31}, "n", "integer"),
        ({"at": 2**63}, "at", "integer"),
        ({"at": "yesterday"}, "at", "string"),
        ({"at": "2023-11-14T23:13:20"}, "at", "string"),  # no zone
        ({"x": "1"}, "x", "string"),
        ({"kind": "c"}, "kind", "string"),
        ({"tags": {"k": "v"}}, "tags[]", "string"),
        ({"tags": []}, "tags", "array"),
        ({"points": [{"lat": 1}, {"lat": 1e39}]}, "points[].lat", "number"),
        ({"points": [{}]}, "points[].lat", "nothing"),
        ({"points": [5]}, "points[]", "integer"),
        ({"class": 0}, "class", "integer"),
    ],
)
def test_misfit_names_field_expected_and_got(change: dict[str, Any], name: str, got: str) -> None:
    error = one_error(EVENT, {**GOOD, **change})
    assert type(error) is SchemaError
    assert (error.field, error.got) == (name, got)
    assert error.expected


@pytest.mark.parametrize("name", ["id", "n", "at"])
def test_missing_required_field_is_named(name: str) -> None:
    error = one_error(EVENT, {k: v for k, v in GOOD.items() if k != name})
    assert type(error) is SchemaError
    assert (error.field, error.got, error.schema_id) == (name, "nothing", None)


def test_number_beyond_every_float_is_a_schema_error() -> None:
    assert type(one_error(EVENT, b'{"id": "a", "n": 1, "at": 1, "x": 1e999}')) is SchemaError


def test_too_large_json_is_oversize() -> None:
    decoder = ColumnarDecoder(EVENT, lambda _: EVENT, json_allowed=True, max_bytes=20)
    assert type(decoder.decode([json.dumps(GOOD).encode()]).errors[0][1]) is Oversize


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("bytes", "aGk=", b"hi"),
        ({"type": "fixed", "name": "F", "size": 2}, "aGk=", b"hi"),
        ({"type": "int", "logicalType": "date"}, "1970-01-03", "1970-01-03"),
        ({"type": "int", "logicalType": "date"}, 2, "1970-01-03"),
        ({"type": "int", "logicalType": "time-millis"}, "00:00:01.5", "00:00:01.500000"),
        ({"type": "long", "logicalType": "time-micros"}, 7, "00:00:00.000007"),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2},
            "12.34",
            "12.34",
        ),
        (
            {"type": "long", "logicalType": "timestamp-micros"},
            "1970-01-01T00:00:00.000008Z",
            "1970-01-01 00:00:00.000008",
        ),
    ],
)
def test_other_types(kind: Any, value: Any, expected: Any) -> None:
    (read,) = decode(record(field("a", kind)), json.dumps({"a": value}).encode()).columns[0]
    assert (read.as_py() if isinstance(expected, bytes) else str(read.as_py())) == expected


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda t: t.encode("utf-8", "replace")))
def test_no_bytes_escape_the_two_classes(tail: bytes) -> None:
    batch = decode(EVENT, b"{" + tail)
    assert len(batch.rows) + len(batch.errors) == 1


@settings(deadline=None, max_examples=100)
@given(
    st.fixed_dictionaries(
        {
            "id": st.text(st.characters(codec="utf-8")),
            "n": st.integers(-(2**31), 2**31 - 1),
            "at": st.integers(-(2**63), 2**63 - 1),
            "x": st.none() | st.floats(allow_nan=False, allow_infinity=False),
            "kind": st.sampled_from("ab"),
            "tags": st.dictionaries(st.text("xyz"), st.integers(-(2**63), 2**63 - 1), max_size=3),
        }
    )
)
def test_json_reads_as_avro_does(row: dict[str, Any]) -> None:
    avro = encode_one(EVENT, 7, {**row, "points": [], "class": False})
    from_json = decode(EVENT, json.dumps(row).encode())
    assert from_json.errors == []
    assert from_json.columns.equals(decode(EVENT, avro).columns)
