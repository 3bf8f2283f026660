"""Can a reader's schema read what a writer's schema wrote? Avro schema resolution, as a list.

Used by the decoder to name the field at fault, and by the contract tests to hold every ``.avsc``
BACKWARD compatible with its committed history (``schemas/history/<name>/<n>.avsc``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from penstock_schemas.avro_parser import parse_type
from penstock_schemas.avro_types import AvroField, AvroType

_PROMOTES: Final = {
    "int": {"int", "long", "float", "double"},
    "long": {"long", "float", "double"},
    "float": {"float", "double"},
    "string": {"string", "bytes"},
    "bytes": {"bytes", "string"},
}
_UNITS: Final = frozenset(
    {
        "date",
        "time-millis",
        "time-micros",
        "timestamp-millis",
        "timestamp-micros",
        "local-timestamp-millis",
        "local-timestamp-micros",
    }
)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A place where the reader cannot read every value of the writer.

    Parameters
    ----------
    field
        Dotted path of the field.
    expected, got
        What the reader asks for and what the writer has.
    always
        Whether it hits every record, and not only some values (a union branch, an enum symbol).
    """

    field: str
    expected: str
    got: str
    always: bool

    def __str__(self) -> str:
        return f"field {self.field!r}: expected {self.expected}, got {self.got}"


def find_conflicts(writer: AvroType, reader: AvroType) -> list[Conflict]:
    """Return what stands between a writer's data and a reader; empty if BACKWARD compatible.

    Beyond the Avro specification, two different time units (milliseconds read as microseconds)
    are a conflict: the numbers would resolve, and be wrong. The name of the outermost record does
    not count: a reader may look at several writers' records through one view.
    """
    return list(_conflicts(writer, reader, "", always=True))


def backward_conflicts(old: str, new: str) -> list[Conflict]:
    """Return why the schema text ``new`` cannot replace ``old``; empty if it can.

    Here the name of the outermost record counts, as it does for a registry.

    Examples
    --------
    >>> old = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}'
    >>> new = old.replace('"int"', '"string"')
    >>> [str(c) for c in backward_conflicts(old, new)]
    ["field 'a': expected string, got int"]
    """
    writer, reader = parse_type(old), parse_type(new)
    found = find_conflicts(writer, reader)
    if not _same_name(writer, reader):
        found.insert(0, Conflict("", f"record {reader.name}", f"record {writer.name}", True))
    return found


def _conflicts(
    writer: AvroType, reader: AvroType, path: str, *, always: bool
) -> Iterator[Conflict]:
    if writer.kind == "union":
        for branch in writer.branches:
            yield from _conflicts(branch, reader, path, always=False)
        return
    if reader.kind == "union":
        if not any(_reads(writer, branch) for branch in reader.branches):
            nearest = reader.optional
            if nearest is not None and nearest.kind == writer.kind:
                yield from _conflicts(writer, nearest, path, always=always)
            else:
                yield Conflict(path, reader.describe(), writer.describe(), always)
        return
    if writer.kind == reader.kind:
        yield from _same_kind(writer, reader, path, always=always)
    elif reader.kind not in _PROMOTES.get(writer.kind, ()):
        yield Conflict(path, reader.describe(), writer.describe(), always)


def _reads(writer: AvroType, reader: AvroType) -> bool:
    return next(_conflicts(writer, reader, "branch", always=True), None) is None


def _same_kind(
    writer: AvroType, reader: AvroType, path: str, *, always: bool
) -> Iterator[Conflict]:
    kind = writer.kind
    if path and not _same_name(writer, reader):
        yield Conflict(path, f"{kind} {reader.name}", f"{kind} {writer.name}", always)
    elif kind == "record":
        yield from _record(writer, reader, path, always=always)
    elif kind in ("array", "map"):
        yield from _conflicts(writer.item(), reader.item(), path, always=always)
    elif kind == "enum":
        lost = [s for s in writer.symbols if s not in reader.symbols]
        if lost and reader.default is None:
            yield Conflict(path, reader.describe(), ", ".join(lost), False)
    elif kind == "fixed" and writer.size != reader.size:
        yield Conflict(path, f"fixed of {reader.size}", f"fixed of {writer.size}", always)
    elif _other_meaning(writer, reader):
        yield Conflict(path, reader.describe(), writer.describe(), always)


def _same_name(writer: AvroType, reader: AvroType) -> bool:
    return writer.name == reader.name or writer.name in reader.aliases


def _other_meaning(writer: AvroType, reader: AvroType) -> bool:
    if "decimal" in (writer.logical, reader.logical):
        return (writer.logical, writer.scale) != (reader.logical, reader.scale)
    return (
        writer.logical in _UNITS and reader.logical in _UNITS and writer.logical != reader.logical
    )


def _record(writer: AvroType, reader: AvroType, path: str, *, always: bool) -> Iterator[Conflict]:
    for wanted in reader.fields:
        at = f"{path}.{wanted.name}" if path else wanted.name
        written = _written(writer, wanted)
        if written is not None:
            yield from _conflicts(written.type, wanted.type, at, always=always)
        elif not wanted.has_default:
            yield Conflict(at, wanted.type.describe(), "no such field, and no default", always)


def _written(writer: AvroType, wanted: AvroField) -> AvroField | None:
    names = (wanted.name, *wanted.aliases)
    return next((f for name in names for f in writer.fields if f.name == name), None)


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
