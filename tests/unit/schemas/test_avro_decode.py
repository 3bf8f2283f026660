"""Values to columns: bad values are isolated, other schemas are resolved by column or by row."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_schemas.avro_decode import projected
from penstock_schemas.codec import ColumnarDecoder, decode_one, encode_one
from penstock_schemas.errors import (
    ConfigError,
    DecodeError,
    Oversize,
    RegistryUnavailable,
    SchemaError,
)


def record(*fields: Any, name: str = "R") -> str:
    return json.dumps({"type": "record", "name": name, "fields": list(fields)})


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
READER = record(field("id", "string"), field("x", "double"), field("at", MILLIS))
GOOD = [encode_one(READER, 7, {"id": f"e{i}", "x": i / 2, "at": i}) for i in range(64)]


def decoder(schema: str = READER, writers: dict[int, str] | None = None, **more: Any):
    known = {7: schema} if writers is None else writers

    def resolve(schema_id: int) -> str:
        if schema_id not in known:
            raise SchemaError("unknown schema id", got=str(schema_id))
        return known[schema_id]

    return ColumnarDecoder(schema, resolve, **more)


@pytest.mark.parametrize(
    ("value", "error", "schema_id"),
    [
        (b"", DecodeError, None),
        (b"\x00", DecodeError, None),
        (b"\x00\x00\x00\x00", DecodeError, None),
        (b"\x01" + GOOD[0][1:], DecodeError, None),
        (b"not framed at all", DecodeError, None),
        (b'{"id": "a", "x": 1, "at": 2}', DecodeError, None),  # JSON is not allowed here
        (GOOD[0][:5], DecodeError, 7),
        (GOOD[0][:-1], DecodeError, 7),
        (GOOD[0] + b"\x00", DecodeError, 7),
        (b"\x00\x00\x00\x00\x07\x04\xff\xfe" + bytes(9), DecodeError, 7),  # not UTF-8
        (b"\x00\x00\x00\x00\x63" + GOOD[0][5:], SchemaError, 99),
        (GOOD[0] + bytes(1000), Oversize, 7),
    ],
)
@pytest.mark.parametrize("neighbours", [0, 3, 40])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_bad_value_is_isolated(value, error, schema_id, neighbours: int, place: float) -> None:
    at = int(place * neighbours)
    values = [*GOOD[:at], value, *GOOD[at:neighbours]]
    batch = decoder(max_bytes=500).decode(values)
    assert [row for row, _ in batch.errors] == [at]
    assert type(batch.errors[0][1]) is error
    assert batch.errors[0][1].schema_id == schema_id
    assert batch.rows.tolist() == [i for i in range(neighbours + 1) if i != at]
    assert batch.columns["id"].to_pylist() == [f"e{i}" for i in range(neighbours)]


def test_many_bad_values_among_good_ones_keep_order() -> None:
    values: list[bytes | None] = [
        v[:-2] if i % 3 == 0 else v + b"x" if i % 7 == 0 else v for i, v in enumerate(GOOD)
    ]
    values[10] = None
    batch = decoder().decode(values)
    bad = [i for i in range(64) if (i % 3 == 0 or i % 7 == 0) and i != 10]
    assert [row for row, _ in batch.errors] == bad
    assert batch.tombstones.tolist() == [10]
    good = [i for i in range(64) if i not in bad and i != 10]
    assert batch.rows.tolist() == good
    assert batch.columns["x"].to_pylist() == [i / 2 for i in good]


def test_empty_batch_has_the_reader_columns() -> None:
    batch = decoder().decode([])
    assert batch.columns.num_rows == 0
    assert batch.columns.schema.names == ["id", "x", "at"]
    assert str(batch.columns.schema.types[2]) == "timestamp[ms]"


def test_valid_encodings_that_are_not_the_shortest_are_good() -> None:
    schema = record(field("xs", {"type": "array", "items": "long"}), field("n", "int"))
    plain = encode_one(schema, 7, {"xs": [1, 2], "n": 1})
    blocks = plain[:5] + b"\x03\x04\x02\x04\x00\x02"  # negative count, with size in bytes
    split = plain[:5] + b"\x02\x02\x02\x04\x00\x02"  # two blocks of one
    padded = plain[:-1] + b"\x82\x00"
    batch = decoder(schema).decode([plain, blocks, split, padded] * 5)
    assert batch.errors == []
    assert batch.columns.to_pylist() == [{"xs": [1, 2], "n": 1}] * 20


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "map", "values": "int"},
        ["null", {"type": "map", "values": "int"}],
        {"type": "array", "items": {"type": "map", "values": "int"}},
        {"type": "map", "values": {"type": "map", "values": "int"}},
    ],
    ids=["map", "optional", "array", "map of maps"],
)
def test_a_repeated_key_keeps_its_last_value_alone_and_in_a_batch(kind: Any) -> None:
    twice = b"\x04\x02k\x02\x02k\x04\x00"  # {"k": 1, "k": 2}
    around = {"map": b"%s", "optional": b"\x02%s", "array": b"\x02%s\x00"}
    form = around.get("optional" if isinstance(kind, list) else kind["type"], b"%s")
    if isinstance(kind, dict) and kind["type"] == "map" and isinstance(kind["values"], dict):
        form = b"\x02\x02o%s\x00"
    schema = record(field("a", kind), field("n", "int"))
    odd = b"\x00\x00\x00\x00\x07" + form % twice + b"\x06"
    plain = b"\x00\x00\x00\x00\x07" + form % b"\x02\x02k\x04\x00" + b"\x06"
    alone = decoder(schema).decode([odd])
    assert alone.columns.equals(decoder(schema).decode([plain]).columns)
    among = decoder(schema).decode([plain] * 20 + [odd] + [plain] * 20)
    assert among.rows.tolist() == list(range(41))
    assert among.columns.equals(decoder(schema).decode([plain] * 41).columns)


@pytest.mark.parametrize("copies", [1, 30])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("boolean", b"\x02"),
        ("int", b"\x80\x80\x80\x80\x80\x80\x80\x80\x01"),
        ("int", b"\xff\xff\xff\xff\x7f"),  # 35 bits: cut to 32 it would keep its length
        ("long", b"\x80" * 10 + b"\x01"),
        ("long", b"\xff" * 9 + b"\x7f"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\x02"),
        (["null", "int"], b"\x04\x00"),
        ("string", b"\x01"),
        ("bytes", b"\x03a"),
        ({"type": "array", "items": "long"}, b"\x03\x06\x02\x04\x00"),  # wrong block size
    ],
)
def test_impossible_values_are_refused_alone_and_in_a_batch(kind, body, copies: int) -> None:
    schema = record(field("a", kind))
    batch = decoder(schema).decode([b"\x00\x00\x00\x00\x07" + body] * copies)
    assert [e.dead_letter_class for _, e in batch.errors] == ["decode"] * copies
    assert batch.errors[0][1].field == "a"


def test_registry_outage_is_passed_on() -> None:
    def resolve(schema_id: int) -> str:
        raise RegistryUnavailable("away")

    with pytest.raises(RegistryUnavailable):
        ColumnarDecoder(READER, resolve).decode(GOOD)


def test_each_schema_id_is_asked_for_once() -> None:
    asked: list[int] = []

    def resolve(schema_id: int) -> str:
        asked.append(schema_id)
        return READER

    used = ColumnarDecoder(READER, resolve)
    for _ in range(3):
        used.decode(GOOD)
    assert asked == [7]


class TestOtherWriter:
    """The writer's schema is not the reader's."""

    def test_same_layout_under_other_names_and_docs_is_read_at_once(self) -> None:
        writer = json.dumps({**json.loads(READER), "name": "Other", "doc": "x"})
        batch = decoder(writers={7: writer}).decode(GOOD)
        assert batch.rows.tolist() == list(range(64))

    def test_field_with_default_is_filled_and_extra_field_dropped(self) -> None:
        old = record(field("gone", "int"), field("id", "string"), field("x", "float"))
        new = record(
            field("id", "string"), field("x", "double"), field("c", "string", default="EUR")
        )
        values = [encode_one(old, 3, {"gone": 1, "id": "a", "x": 0.5})] * 12
        batch = decoder(new, {3: old}).decode(values)
        assert batch.columns.to_pylist() == [{"id": "a", "x": 0.5, "c": "EUR"}] * 12

    @pytest.mark.parametrize(
        ("writer", "name"),
        [
            (record(field("id", "string"), field("x", "double")), "at"),
            (record(field("id", "long"), field("x", "double"), field("at", MILLIS)), "id"),
            (record(field("id", "string"), field("x", "double"), field("at", MICROS)), "at"),
        ],
    )
    def test_unreadable_writer_names_the_field(self, writer: str, name: str) -> None:
        row = {"id": 1 if name == "id" else "a", "x": 0.0, "at": 1}
        values = [encode_one(writer, 3, row), GOOD[0]]
        batch = decoder(writers={3: writer, 7: READER}).decode(values)
        assert batch.rows.tolist() == [1]
        error = batch.errors[0][1]
        assert isinstance(error, SchemaError)
        assert (error.field, error.schema_id) == (name, 3)

    def test_null_in_a_field_that_may_not_be_null_hits_its_record_only(self) -> None:
        writer = record(field("id", ["null", "string"]), field("x", "double"), field("at", MILLIS))
        values = [encode_one(writer, 3, {"id": i, "x": 1.0, "at": 1}) for i in ("a", None, "b")]
        batch = decoder(writers={3: writer}).decode(values)
        assert batch.columns["id"].to_pylist() == ["a", "b"]
        assert batch.errors[0][0] == 1
        assert isinstance(batch.errors[0][1], SchemaError)
        assert batch.errors[0][1].field == "id"

    @pytest.mark.parametrize(
        "writer",
        [
            "{",
            '"string"',
            '{"type": "record", "name": "R"}',
            '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "Nowhere"}]}',
            record(field("a", ["null", "R"])),  # contains itself: nesting without end
            record(field("a", {"type": "array", "items": "null"})),  # 2**62 nulls in 9 bytes
        ],
    )
    def test_refused_writer_is_a_schema_error(self, writer: str) -> None:
        batch = decoder(writers={3: writer}).decode([b"\x00\x00\x00\x00\x03" + b"\x02" * 100_000])
        assert isinstance(batch.errors[0][1], SchemaError)

    def test_union_of_two_types_reads_as_one(self) -> None:
        writer = record(field("id", "string"), field("x", ["int", "double"]), field("at", MILLIS))
        values = [encode_one(writer, 3, {"id": "a", "x": x, "at": 1}) for x in (1, 1.5)]
        batch = decoder(writers={3: writer}).decode(values)
        assert batch.columns["x"].to_pylist() == [1.0, 1.5]


@pytest.mark.parametrize(
    "schema",
    ["", "{}", '"string"', record(), record(field("a", ["null", "int", "string"]))],
)
def test_schema_without_columns_is_a_configuration_error(schema: str) -> None:
    with pytest.raises(ConfigError):
        ColumnarDecoder(schema, lambda _: schema)


def test_decimal_beyond_its_precision_hits_its_record_only() -> None:
    schema = record(
        field("d", {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2})
    )
    values = [b"\x00\x00\x00\x00\x07" + b for b in (b"\x04\x01\x00", b"\x10" + b"\x7f" * 8)]
    batch = decoder(schema).decode(values)
    assert [str(v) for v in batch.columns["d"].to_pylist()] == ["2.56"]
    assert isinstance(batch.errors[0][1], SchemaError)


def test_decode_one_refuses_what_the_batch_refuses() -> None:
    assert decode_one(GOOD[3], lambda _: READER, READER) == {"id": "e3", "x": 1.5, "at": 3}
    for bad in (b"", b"\x00\x00", GOOD[3][:-1], GOOD[3] + b"\x00"):
        with pytest.raises(DecodeError):
            decode_one(bad, lambda _: READER, READER)


WRITER = {
    "type": "record",
    "name": "Txn",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "extra", "type": ["null", "string"]},
        {"name": "features", "type": {"type": "array", "items": "float"}},
    ],
}
VIEW = {
    "type": "record",
    "name": "View",
    "fields": [
        {"name": "features", "type": {"type": "array", "items": "float"}},
        {"name": "id", "aliases": ["event_id"], "type": "string"},
        {"name": "origin", "type": ["null", "long"], "default": None},
        {"name": "weight", "type": "double", "default": 1.5},
    ],
}
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "event_id": st.text(max_size=20),
            "extra": st.none() | st.text(max_size=5),
            "features": st.lists(st.floats(width=32, allow_nan=False), max_size=4),
        }
    ),
    min_size=3,
    max_size=40,
)


def framed(record: dict[str, object], schema: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), record)
    return b"\0\0\0\0\7" + buffer.getvalue()


def view_decoder() -> ColumnarDecoder:
    return ColumnarDecoder(json.dumps(VIEW), lambda _: json.dumps(WRITER))


@given(ROWS)
def test_columns_equal_row_wise_resolution(records):
    values = [framed(r, WRITER) for r in records]
    decoded = view_decoder().decode(values)
    assert not decoded.errors
    expected = [
        fastavro.schemaless_reader(
            io.BytesIO(v[5:]),
            fastavro.parse_schema(WRITER),
            fastavro.parse_schema({**VIEW, "name": "Txn"}),
        )
        for v in values
    ]
    assert decoded.columns.to_pylist() == expected


def test_a_bad_record_does_not_take_its_neighbours_along():
    record = {"event_id": "a", "extra": None, "features": [1.0]}
    values = [framed({**record, "event_id": str(i)}, WRITER) for i in range(20)]
    values[7] = values[7] + b"x"
    values[9] = values[9][:-2]
    decoded = view_decoder().decode(values)
    assert [row for row, _ in decoded.errors] == [7, 9]
    assert decoded.columns.column("id").to_pylist() == [
        str(i) for i in range(20) if i not in (7, 9)
    ]


@pytest.mark.parametrize(
    "field",
    [
        {"name": "features", "type": {"type": "array", "items": "double"}},
        {"name": "needed", "type": "string"},
        {"name": "rich", "type": {"type": "array", "items": "int"}, "default": []},
    ],
)
def test_what_takes_more_than_columns_is_left_to_the_row_reader(field):
    reader = {**VIEW, "fields": [field]}
    assert projected(json.dumps(WRITER), json.dumps(reader)) is None
