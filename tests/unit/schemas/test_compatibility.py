"""Schema resolution against fastavro's, over random changes."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_schemas.avro_schema import parse_type
from penstock_schemas.compatibility import find_conflicts

VALUES: dict[str, Any] = {
    '"null"': None,
    '"boolean"': True,
    '"int"': 5,
    '"long"': 2**40,
    '"float"': 0.5,
    '"double"': 0.25,
    '"string"': "s",
    '"bytes"': b"b",
    '{"type": "array", "items": "int"}': [1, 2],
    '{"type": "array", "items": "long"}': [1],
    '{"type": "map", "values": "string"}': {"a": "b"},
    '{"type": "enum", "name": "E", "symbols": ["A", "B"]}': "B",
    '{"type": "enum", "name": "E", "symbols": ["A"]}': "A",
    '{"type": "enum", "name": "E", "symbols": ["A"], "default": "A"}': "A",
    '{"type": "fixed", "name": "F", "size": 2}': b"ab",
    '{"type": "fixed", "name": "F", "size": 3}': b"abc",
}
KINDS = st.sampled_from(sorted(VALUES))


def record(fields: dict[str, str], defaults: frozenset[str] = frozenset()) -> dict[str, Any]:
    members: list[dict[str, Any]] = []
    for name, kind in fields.items():
        member: dict[str, Any] = {"name": name, "type": json.loads(kind)}
        if name in defaults:
            member = {"name": name, "type": ["null", member["type"]], "default": None}
        members.append(member)
    # Named types of one schema need names of their own.
    text = json.dumps(members)
    for letter in "EF":
        parts = text.split(f'"name": "{letter}"')
        text = parts[0] + "".join(
            f'"name": "{letter}{i or ""}"{p}' for i, p in enumerate(parts[1:])
        )
    return {"type": "record", "name": "R", "fields": json.loads(text)}


@settings(deadline=None, max_examples=400)
@given(writer=KINDS, reader=KINDS, optional=st.sampled_from(["", "w", "r", "wr"]))
def test_one_field_resolves_as_in_fastavro(writer: str, reader: str, optional: str) -> None:
    old, new = json.loads(writer), json.loads(reader)
    if "w" in optional and old != "null":
        old = ["null", old]
    if "r" in optional and new != "null":
        new = ["null", new]
    old_schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": old}]}
    new_schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": new}]}
    conflicts = find_conflicts(
        parse_type(json.dumps(old_schema)), parse_type(json.dumps(new_schema))
    )
    values = [VALUES[writer]] + ([None] if isinstance(old, list) else [])
    if not conflicts:
        assert all(reads(old_schema, new_schema, {"a": value}) for value in values)
    if any(c.always for c in conflicts):
        assert not any(reads(old_schema, new_schema, {"a": value}) for value in values)


def reads(old: dict[str, Any], new: dict[str, Any], row: dict[str, Any]) -> bool:
    writer, reader = fastavro.parse_schema(old), fastavro.parse_schema(new)
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, writer, row)
    stream.seek(0)
    try:
        fastavro.schemaless_reader(stream, writer, reader)
    except Exception:
        return False
    return True


@settings(deadline=None, max_examples=150)
@given(
    writer=st.dictionaries(st.sampled_from("abcd"), KINDS, min_size=1),
    reader=st.dictionaries(st.sampled_from("abcd"), KINDS, min_size=1),
    defaults=st.frozensets(st.sampled_from("abcd")),
)
def test_records_resolve_as_in_fastavro(
    writer: dict[str, str], reader: dict[str, str], defaults: frozenset[str]
) -> None:
    reader = {n: k for n, k in reader.items() if n not in defaults or k != '"null"'} or reader
    defaults = frozenset(n for n in defaults if reader.get(n) != '"null"')
    old, new = record(writer), record(reader, defaults)
    conflicts = find_conflicts(parse_type(json.dumps(old)), parse_type(json.dumps(new)))
    row = {name: VALUES[kind] for name, kind in writer.items()}
    if not conflicts:
        assert reads(old, new, row)
    if any(c.always for c in conflicts):
        assert not reads(old, new, row)


@pytest.mark.parametrize(
    ("writer", "reader", "always"),
    [
        ('["null", "int"]', '"int"', False),
        ('"int"', '["null", "string"]', True),
        ('["int", "string"]', '["null", "string"]', False),
        (
            '{"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}',
            '"bytes"',
            True,
        ),
    ],
)
def test_always_means_every_record(writer: str, reader: str, always: bool) -> None:
    (conflict,) = find_conflicts(parse_type(writer), parse_type(reader))
    assert conflict.always is always
