"""A writer's batch read as another schema must equal what fastavro's row-wise resolution gives."""

import io
import json

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_schemas.avro_projection import projected
from penstock_schemas.columnar_decoder import ColumnarDecoder

WRITER = {
    "type": "record",
    "name": "Txn",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "extra", "type": ["null", "string"]},
        {"name": "features", "type": {"type": "array", "items": "float"}},
    ],
}
READER = {
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


def decoder() -> ColumnarDecoder:
    return ColumnarDecoder(json.dumps(READER), lambda _: json.dumps(WRITER))


@given(ROWS)
def test_columns_equal_row_wise_resolution(records):
    values = [framed(r, WRITER) for r in records]
    decoded = decoder().decode(values)
    assert not decoded.errors
    expected = [
        fastavro.schemaless_reader(
            io.BytesIO(v[5:]),
            fastavro.parse_schema(WRITER),
            fastavro.parse_schema({**READER, "name": "Txn"}),
        )
        for v in values
    ]
    assert decoded.columns.to_pylist() == expected


def test_a_bad_record_does_not_take_its_neighbours_along():
    record = {"event_id": "a", "extra": None, "features": [1.0]}
    values = [framed({**record, "event_id": str(i)}, WRITER) for i in range(20)]
    values[7] = values[7] + b"x"
    values[9] = values[9][:-2]
    decoded = decoder().decode(values)
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
    reader = {**READER, "fields": [field]}
    assert projected(json.dumps(WRITER), json.dumps(reader), decoder().schema) is None
