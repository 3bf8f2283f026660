"""Every shipped schema reads what each of its earlier versions wrote."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import fastavro
import pytest
from penstock_schemas.avro_schema import parse_type
from penstock_schemas.compatibility import Conflict, find_conflicts
from penstock_schemas.schema_files import schema, schema_text

HISTORY = Path(__file__).parents[2] / "schemas" / "history"
NAMES = sorted(
    f.name.removesuffix(".avsc")
    for f in files("penstock_schemas").iterdir()
    if f.name.endswith(".avsc")
)


def backward_conflicts(old: str, new: str) -> list[Conflict]:
    """Return why a schema cannot replace another; unlike a reader, a registry minds its name."""
    writer, reader = parse_type(old), parse_type(new)
    found = find_conflicts(writer, reader)
    if writer.name not in (reader.name, *reader.aliases):
        found.insert(0, Conflict("", f"record {reader.name}", f"record {writer.name}", True))
    return found


def history_problems(name: str, current: str, directory: Path) -> list[str]:
    """Check a schema against its committed history; an empty list is what CI wants.

    Parameters
    ----------
    name
        Name of the ``.avsc``, without the suffix.
    current
        Its text today.
    directory
        Holds ``<name>/1.avsc``, ``2.avsc``, …: every version that was ever released.

    Returns
    -------
    One sentence per problem: a version that today's schema cannot read, or today's schema not
    being the last version of its history.
    """
    versions = sorted(directory.joinpath(name).glob("*.avsc"), key=lambda file: int(file.stem))
    if [file.stem for file in versions] != [str(n + 1) for n in range(len(versions))]:
        return [f"{name}: the history is not numbered 1, 2, 3, …"]
    problems = [
        f"{name}: version {file.stem} cannot be read: {conflict}"
        for file in versions
        for conflict in backward_conflicts(file.read_text(encoding="utf-8"), current)
    ]
    if not versions or json.loads(versions[-1].read_text(encoding="utf-8")) != json.loads(current):
        problems.append(
            f"{name}: it has changed; add it as history/{name}/{len(versions) + 1}.avsc"
        )
    return problems


def test_conflict_reads_as_a_sentence() -> None:
    old = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}'
    conflicts = backward_conflicts(old, old.replace('"int"', '"string"'))
    assert [str(c) for c in conflicts] == ["field 'a': expected string, got int"]


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_compatible_with_its_history_and_part_of_it(name: str) -> None:
    assert history_problems(name, schema_text(f"{name}.avsc"), HISTORY) == []


def test_history_holds_no_schema_that_was_dropped() -> None:
    assert sorted(p.name for p in HISTORY.iterdir()) == NAMES


Change = Callable[[dict[str, Any]], None]


def field(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(f for f in document["fields"] if f["name"] == name)


def add(document: dict[str, Any], **new: Any) -> None:
    document["fields"].append(new)


def require(member: dict[str, Any]) -> None:
    member["type"] = member["type"][1]
    del member["default"]


BREAKING: dict[str, tuple[str, Change]] = {
    "required field added": ("extra", lambda d: add(d, name="extra", type="string")),
    "field renamed": ("id", lambda d: field(d, "event_id").update(name="id")),
    "type changed": ("event_id", lambda d: field(d, "event_id").update(type="long")),
    "type narrowed": ("threshold", lambda d: field(d, "threshold").update(type="int")),
    "time unit changed": (
        "event_time",
        lambda d: field(d, "event_time").update(
            type={"type": "long", "logicalType": "timestamp-micros"}
        ),
    ),
    "null no longer allowed": ("origin", lambda d: require(field(d, "origin"))),
    "outermost record renamed": ("", lambda d: d.update(name="Answer")),
    "record renamed": ("origin", lambda d: field(d, "origin")["type"][1].update(name="Source")),
    "items changed": ("features", lambda d: field(d, "features")["type"].update(items="string")),
    "inner field added": (
        "origin.epoch",
        lambda d: field(d, "origin")["type"][1]["fields"].append({"name": "epoch", "type": "int"}),
    ),
    "symbol removed": (
        "outcome",
        lambda d: field(d, "outcome").update(
            type={"type": "enum", "name": "Outcome", "symbols": ["predicted"]}
        ),
    ),
}
HARMLESS: dict[str, Change] = {
    "nothing": lambda d: None,
    "field with default added": lambda d: add(d, name="extra", type="string", default=""),
    "field removed": lambda d: d["fields"].remove(field(d, "attempt")),
    "field widened": lambda d: field(d, "threshold").update(type="double"),
    "null allowed": lambda d: field(d, "event_id").update(type=["null", "string"]),
    "symbol added": lambda d: field(d, "outcome")["type"]["symbols"].append("late"),
    "symbol removed, default there": lambda d: field(d, "outcome")["type"]["symbols"].remove(
        "expired"
    ),
    "renamed with alias": lambda d: field(d, "event_id").update(name="id", aliases=["event_id"]),
    "record renamed with alias": lambda d: field(d, "origin")["type"][1].update(
        name="Source", aliases=["Origin"]
    ),
    "order changed": lambda d: d["fields"].reverse(),
    "doc changed": lambda d: d.update(doc="other words"),
}
ROWS = [
    {
        "event_id": "e",
        "event_time": 1,
        "predicted_at": 2,
        "pipeline": "p",
        "model_name": "m",
        "model_version": "1",
        "variant": "champion",
        "scores": [0.5],
        "decision": True,
        "threshold": 0.5,
        "features": [1.0],
        "origin": origin,
        "attempt": "a",
        "outcome": outcome,
    }
    for origin in (None, {"topic": "t", "partition": 1, "offset": 2})
    for outcome in ("predicted", "expired", "duplicate")
]


def changed(change: Change) -> str:
    document = copy.deepcopy(schema("prediction.avsc"))
    change(document)
    return json.dumps(document)


def fastavro_reads_all(new: str) -> bool:
    """Old writer, new reader, by another implementation of schema resolution."""
    writer = fastavro.parse_schema(schema("prediction.avsc"))
    reader = fastavro.parse_schema(json.loads(new))
    try:
        for row in ROWS:
            stream = io.BytesIO()
            fastavro.schemaless_writer(stream, writer, row)
            stream.seek(0)
            fastavro.schemaless_reader(stream, writer, reader)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("case", BREAKING)
def test_breaking_change_is_found_and_named(case: str) -> None:
    name, change = BREAKING[case]
    conflicts = backward_conflicts(schema_text("prediction.avsc"), changed(change))
    assert name in {c.field for c in conflicts}
    # In these the numbers resolve and would be wrong; or only a registry minds.
    if case not in ("time unit changed", "outermost record renamed"):
        assert not fastavro_reads_all(changed(change))


@pytest.mark.parametrize("case", HARMLESS)
def test_harmless_change_is_let_through(case: str) -> None:
    new = changed(HARMLESS[case])
    assert backward_conflicts(schema_text("prediction.avsc"), new) == []
    assert fastavro_reads_all(new)


class TestChecker:
    """The checker itself, on a history with planted faults."""

    @pytest.fixture
    def history(self, tmp_path: Path) -> Path:
        (tmp_path / "prediction").mkdir()
        (tmp_path / "prediction" / "1.avsc").write_text(schema_text("prediction.avsc"))
        return tmp_path

    def test_change_without_a_history_file(self, history: Path) -> None:
        new = changed(HARMLESS["field with default added"])
        (problem,) = history_problems("prediction", new, history)
        assert "history/prediction/2.avsc" in problem
        (history / "prediction" / "2.avsc").write_text(new)
        assert history_problems("prediction", new, history) == []

    def test_break_with_an_old_version_that_a_later_one_hides(self, history: Path) -> None:
        without = changed(HARMLESS["field removed"])
        (history / "prediction" / "2.avsc").write_text(without)
        document = json.loads(without)
        add(document, name="attempt", type="long", default=0)
        (history / "prediction" / "3.avsc").write_text(json.dumps(document))
        (problem,) = history_problems("prediction", json.dumps(document), history)
        assert "version 1" in problem
        assert "'attempt'" in problem

    def test_missing_history_and_gap(self, history: Path) -> None:
        text = schema_text("prediction.avsc")
        assert history_problems("other", text, history)
        (history / "prediction" / "3.avsc").write_text(text)
        assert "not numbered" in history_problems("prediction", text, history)[0]
