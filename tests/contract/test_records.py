"""The dataclasses of records.py and the shipped schemas say the same."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from penstock_schemas import records
from penstock_schemas.avro_parser import parse_record
from penstock_schemas.avro_types import AvroType
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_schemas.schema_files import schema_text

SHIPPED = sorted(f.name for f in files("penstock_schemas").iterdir() if f.name.endswith(".avsc"))
HOT = {"FeatureVector", "Prediction", "Origin", "Interaction"}  # columns, never objects
PYTHON = {"string": str, "int": int, "long": int, "float": float, "double": float, "boolean": bool}


def record_types(node: AvroType) -> Iterator[AvroType]:
    if node.kind == "record":
        yield node
    for inner in (node.items, *node.branches, *(f.type for f in node.fields)):
        if inner is not None:
            yield from record_types(inner)


AVRO = {t.name: t for file in SHIPPED for t in record_types(parse_record(schema_text(file)))}
CLASSES = {
    name: cls
    for name, cls in vars(records).items()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls)
}


def test_every_record_has_its_class_or_is_a_hot_one() -> None:
    assert set(AVRO) == set(CLASSES) | HOT
    assert not set(CLASSES) & HOT


def python_type(node: AvroType) -> Any:
    if node.kind == "record":
        return CLASSES[node.name]
    if node.kind == "array":
        return tuple[python_type(node.item()), ...]  # type: ignore[misc]
    return PYTHON[node.kind]


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_class_has_the_fields_types_and_defaults_of_its_schema(name: str) -> None:
    cls, avro = CLASSES[name], AVRO[name]
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    assert set(fields) == {f.name for f in avro.fields}
    for member in avro.fields:
        assert hints[member.name] == python_type(member.type)
        has_default = fields[member.name].default is not dataclasses.MISSING
        assert has_default == member.has_default
        if has_default:
            assert fields[member.name].default == member.default
    assert cls.__dataclass_params__.frozen
    assert "__slots__" in vars(cls)


def test_routing_state_goes_there_and_back() -> None:
    version = ModelVersion(
        "fraud", "3", "fraud__3", "champion", 100, "sha256:00", "run", "serving", "sig", "abc"
    )
    state = RoutingState("fraud", 4, 1_700_000_000_000, "test", (version,))
    text = schema_text("routing_state.avsc")
    payload = encode_one(text, 1, state.to_dict())
    assert RoutingState.from_dict(decode_one(payload, lambda _: text, text)) == state


@pytest.mark.parametrize("file", SHIPPED)
def test_every_field_says_what_it_is(file: str) -> None:
    import json

    document = json.loads(schema_text(file))
    assert document["doc"]
    assert document["namespace"] == "penstock.v1"
    assert (
        file
        == f"{''.join('_' + c.lower() if c.isupper() else c for c in document['name'])[1:]}.avsc"
    )
    assert all(f.get("doc") for f in document["fields"])
