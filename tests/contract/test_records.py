"""The dataclasses of records.py and the shipped schemas say the same."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from penstock_schemas import records
from penstock_schemas.avro_schema import AvroType, parse_record
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.records import (
    AuditEvent,
    DriftEvent,
    DriftState,
    DriftWindow,
    ModelVersion,
    RetrainEvent,
    RoutingState,
)
from penstock_schemas.schema_files import schema_text

SHIPPED = sorted(f.name for f in files("penstock_schemas").iterdir() if f.name.endswith(".avsc"))
HOT = {"FeatureVector", "Prediction", "Origin", "Interaction", "Observation"}  # never objects
PYTHON = {
    "string": str,
    "int": int,
    "long": int,
    "float": float,
    "double": float,
    "boolean": bool,
    "bytes": bytes,
    "enum": str,
    "null": None,
}


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
    if node.kind == "map":
        return dict[str, python_type(node.item())]  # type: ignore[misc]
    if node.kind == "union":
        return typing.Union[tuple(python_type(b) for b in node.branches)]  # noqa: UP007
    return PYTHON[node.kind]


def default_of(member: dataclasses.Field[Any]) -> Any:
    if member.default_factory is not dataclasses.MISSING:
        return member.default_factory()
    return member.default


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_class_has_the_fields_types_and_defaults_of_its_schema(name: str) -> None:
    cls, avro = CLASSES[name], AVRO[name]
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    assert set(fields) == {f.name for f in avro.fields}
    for member in avro.fields:
        assert hints[member.name] == python_type(member.type)
        default = default_of(fields[member.name])
        assert (default is not dataclasses.MISSING) == member.has_default
        if member.has_default:
            as_python = {"array": tuple, "bytes": lambda text: text.encode("latin-1")}
            assert default == as_python.get(member.type.kind, lambda d: d)(member.default)
    assert cls.__dataclass_params__.frozen
    assert "__slots__" in vars(cls)


MS = 1_700_000_000_000
VERSION = ModelVersion(
    "fraud", "3", "fraud__3", "champion", 100, "sha256:00", "run", "serving", "sig", "abc"
)
ASKED = RetrainEvent.request("r", "fraud", MS, "drift", cause_ids=("d1",), data_since=MS - 5)
WINDOW = DriftWindow("fraud.observations.v1", 0, 3, 9, 7, MS - 9, MS)
SAMPLES: list[Any] = [
    RoutingState("fraud", 4, MS, "test", (VERSION,)),
    DriftEvent(
        *("d1", "e1", "fraud", MS, "adwin", "concept", "error", 0.3, 0.1, 0.1, "fraud", "3"),
        WINDOW,
        "sha256:11",
        "detected",
    ),
    ASKED,
    ASKED.followed_by("finished", MS, verdict="rejected", metrics={"auc": 0.5}),
    DriftState("layout", 9, 2, b"{}", b"1234", b"12345678"),
    AuditEvent(
        *("a1", "o1", MS, "ann", "replay", "t", "end", "succeeded"),
        arguments={"rate": "5"},
        ranges={"t/0@x": "0-3,9"},
        counts={"replayed": 5},
    ),
]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: type(s).__name__)
def test_record_goes_there_and_back(sample: Any) -> None:
    name = type(sample).__name__
    file = "".join("_" + c.lower() if c.isupper() else c for c in name)[1:] + ".avsc"
    text = schema_text(file)
    payload = encode_one(text, 1, sample.to_dict())
    assert type(sample).from_dict(decode_one(payload, lambda _: text, text)) == sample


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
