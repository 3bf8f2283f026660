"""TODO."""

from __future__ import annotations

import json
from typing import Any

import pytest
from penstock_schemas.avro_schema import (
    InvalidSchema,
    parse_record,
    parse_type,
    without_logical_types,
)


def record(*fields: Any, **more: Any) -> dict[str, Any]:
    named = [{"name": f"f{i}", "type": kind} for i, kind in enumerate(fields)]
    return {"type": "record", "name": "R", "fields": named, **more}


def test_named_types_are_resolved_in_place_and_by_namespace() -> None:
    enum = {"type": "enum", "name": "E", "symbols": ["A"]}
    parsed = parse_type(json.dumps(record(enum, "E", "x.E", ["null", "E"], namespace="x")))
    kinds = [f.type.optional or f.type for f in parsed.fields]
    assert kinds == [parse_type(json.dumps(enum))] * 4


def test_equal_means_the_same_bytes_under_the_same_names() -> None:
    one = parse_type(json.dumps(record("int", doc="a")))
    assert one == parse_type(json.dumps({**record("int"), "name": "Other", "doc": "b"}))
    assert one != parse_type(json.dumps(record("long")))
    assert one != parse_type(json.dumps(record({"type": "int", "logicalType": "date"})))


def test_unknown_logical_types_are_ignored() -> None:
    assert parse_type('{"type": "long", "logicalType": "zork"}') == parse_type('"long"')
    assert parse_type('{"type": "string", "logicalType": "date"}') == parse_type('"string"')


def test_a_named_type_may_be_used_many_times_but_not_without_bound() -> None:
    levels: Any = {"type": "record", "name": "L0", "fields": [{"name": "a", "type": "int"}]}
    for i in range(1, 20):  # 2 ** 20 types in 20 lines
        fields = [{"name": "a", "type": levels}, {"name": "b", "type": f"L{i - 1}"}]
        levels = {"type": "record", "name": f"L{i}", "fields": fields}
    with pytest.raises(InvalidSchema, match="more than"):
        parse_type(json.dumps(levels))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("5", "not a type"),
        ('"Nowhere"', "unknown type"),
        ("{}", "not a type"),
        ('{"type": "array"}', "items"),
        ('{"type": "map"}', "values"),
        ('{"type": "enum", "name": "E"}', "symbols"),
        ('{"type": "fixed", "name": "F", "size": -1}', "size"),
        ('{"type": "record", "name": "R"}', "fields"),
        ('{"type": "record", "fields": []}', "name"),
        ('{"type": "record", "name": "R", "fields": ["a"]}', "not a field"),
        ('{"type": "array", "items": "null"}', "no bytes"),
        ('{"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}', "no bytes"),
        (json.dumps({"type": "array", "items": record("null")}), "no bytes"),
        (json.dumps(record(["null", "R"])), "contains itself"),
        (json.dumps(record([["int"]])), "union"),
        ("[]", "union"),
        ('{"type": "bytes", "logicalType": "decimal"}', "decimal"),
        ('{"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3}', "decimal"),
        (
            '{"type": "record", "name": "R", "fields": '
            '[{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]}',
            "one name",
        ),
        ("[" * 70 + '"int"' + "]" * 70, "levels"),
    ],
)
def test_refused_schemas_say_why(schema: str, reason: str) -> None:
    with pytest.raises(InvalidSchema, match=reason):
        parse_type(schema)


@pytest.mark.parametrize("schema", ['"int"', json.dumps(record())])
def test_columns_need_a_record_with_fields(schema: str) -> None:
    with pytest.raises(InvalidSchema, match="top level"):
        parse_record(schema)


def test_logical_types_are_dropped_and_defaults_left_alone() -> None:
    text = '{"type": "int", "logicalType": "date", "default": {"logicalType": "date"}}'
    assert without_logical_types(text, frozenset()) == {
        "type": "int",
        "default": {"logicalType": "date"},
    }
    assert without_logical_types(text, frozenset({"date"}))["logicalType"] == "date"
