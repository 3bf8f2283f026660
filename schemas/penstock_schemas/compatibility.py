"""Conflicts of Avro schema resolution: why a reader's schema cannot read a writer's data.

The row reader names the field at fault by it; the contract tests hold every ``.avsc`` BACKWARD
compatible with its committed history (``schemas/history/<name>/<n>.avsc``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from penstock_schemas.avro_schema import AvroField, AvroType

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
    """Return the conflicts between a writer's schema and a reader's; empty if BACKWARD compatible.

    Beyond the Avro specification, two different time units (milliseconds read as microseconds)
    are a conflict: the numbers would resolve, and be wrong. The name of the outermost record does
    not count: a reader may look at several writers' records through one view.
    """
    return list(_conflicts(writer, reader, "", always=True))


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
