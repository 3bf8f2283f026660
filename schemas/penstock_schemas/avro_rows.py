"""One Confluent-framed Avro record at a time: read, resolved to another schema, written.

A value is ``0x00``, the schema id as 4 bytes big-endian, then the Avro datum. Before fastavro reads
a datum, `check_datum` checks that its bytes are exactly one value of its schema. Libraries differ
in what they let pass (trailing bytes, a boolean of 2, varints without end), and whether a record
is good must not depend on the batch it came in. Nothing is allocated from a length that the bytes
do not back.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, Final

import fastavro
from fastavro.read import SchemaResolutionError

from penstock_schemas.avro_schema import (
    AvroType,
    InvalidSchema,
    parse_record,
    without_logical_types,
)
from penstock_schemas.compatibility import Conflict, find_conflicts
from penstock_schemas.errors import DecodeError, SchemaError

MAGIC: Final = 0
PREFIX_BYTES: Final = 5
_FIXED_WIDTH: Final = {"null": 0, "float": 4, "double": 8}
_KEPT: Final = frozenset({"decimal"})
"""Logical types left to the library; times stay numbers."""


def prefix(schema_id: int) -> bytes:
    """Return the five bytes before a datum.

    Examples
    --------
    >>> prefix(258).hex()
    '0000000102'
    """
    return b"\x00" + schema_id.to_bytes(4, "big")


def schema_id_of(value: bytes) -> int | None:
    """Return the schema id of a framed value; None where no prefix is readable."""
    if len(value) < PREFIX_BYTES or value[0] != MAGIC:
        return None
    return int.from_bytes(value[1:PREFIX_BYTES], "big")


def require_schema_id(value: bytes) -> int:
    """Return the schema id of a framed value.

    Raises
    ------
    DecodeError
        If the value is empty, shorter than the prefix or starts with another byte.
    """
    if not value:
        raise DecodeError("empty value", expected="5-byte prefix", got="0 bytes")
    if value[0] != MAGIC:
        raise DecodeError("wrong magic byte", expected="0x00", got=f"0x{value[0]:02x}")
    if len(value) < PREFIX_BYTES:
        raise DecodeError("truncated prefix", expected="5 bytes", got=f"{len(value)}")
    return int.from_bytes(value[1:PREFIX_BYTES], "big")


class RowReader:
    """Reads framed values of one writer's schema as rows of one reader's schema.

    Raises
    ------
    SchemaError
        At construction, if the writer's schema is invalid, or no record of it can be read.
    InvalidSchema
        At construction, if the reader's schema is invalid.
    """

    def __init__(self, writer_text: str, reader_text: str) -> None:
        self._reader = parse_record(reader_text)
        try:
            self._writer = parse_record(writer_text)
            self._parsed_writer = parsed(writer_text)
        except InvalidSchema as exc:
            raise SchemaError(f"the writer's schema cannot be read: {exc}") from exc
        self.same_layout: Final = self._writer == self._reader
        self._parsed_reader = (
            None if self.same_layout else parsed(_named_as(reader_text, writer_text))
        )
        hopeless = [c for c in self._conflicts if c.always]
        if hopeless:
            raise _unreadable(hopeless[0])

    @cached_property
    def _conflicts(self) -> list[Conflict]:
        return [] if self.same_layout else find_conflicts(self._writer, self._reader)

    def read(self, value: bytes) -> dict[str, Any]:
        """Return the row of one framed value, times as numbers.

        Raises
        ------
        DecodeError
            If the bytes are not exactly one record of the writer's schema.
        SchemaError
            If the record cannot be read as the reader's schema.
        """
        check_datum(value, PREFIX_BYTES, self._writer)
        stream = io.BytesIO(value)
        stream.seek(PREFIX_BYTES)
        try:
            row: dict[str, Any] = fastavro.schemaless_reader(
                stream, self._parsed_writer, self._parsed_reader
            )
        except SchemaResolutionError as exc:
            if self._conflicts:
                raise _unreadable(self._conflicts[0]) from exc
            raise SchemaError("the record does not resolve to the schema", got=str(exc)) from exc
        except Exception as exc:  # caused by the bytes, whatever its class: the record is bad
            raise DecodeError("malformed", got=type(exc).__name__) from exc
        return row


@lru_cache(maxsize=256)
def row_reader(writer_text: str, reader_text: str) -> RowReader:
    """Return the shared reader of a pair of schemas."""
    return RowReader(writer_text, reader_text)


@lru_cache(maxsize=256)
def parsed(text: str) -> Any:
    """Return a schema as fastavro takes it, times as plain numbers.

    Raises
    ------
    InvalidSchema
        If fastavro refuses it.
    """
    try:
        return fastavro.parse_schema(without_logical_types(text, _KEPT))
    except Exception as exc:  # its parser raises many classes on odd documents
        raise InvalidSchema(f"{type(exc).__name__}: {exc}") from exc


def _named_as(reader_text: str, writer_text: str) -> str:
    """Return the reader's schema under the writer's name: fastavro resolves by record name."""
    name = str(json.loads(writer_text)["name"]).rpartition(".")[2]
    return json.dumps({**json.loads(reader_text), "name": name})


def number_schema(text: str) -> AvroType:
    """Return a record schema with times as plain numbers."""
    return parse_record(json.dumps(without_logical_types(text, _KEPT)))


def datum(parsed_schema: Any, record: Mapping[str, Any]) -> bytes:
    """Return one record without prefix, by a schema that `parsed` returned.

    Raises
    ------
    SchemaError
        If the record does not fit the schema.
    """
    stream = io.BytesIO()
    try:
        fastavro.schemaless_writer(stream, parsed_schema, record)
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as exc:
        raise SchemaError("the record does not fit its schema", got=str(exc)) from exc
    return stream.getvalue()


def _unreadable(conflict: Conflict) -> SchemaError:
    return SchemaError(
        "the writer's schema does not resolve to ours",
        field=conflict.field,
        expected=conflict.expected,
        got=conflict.got,
    )


def check_datum(data: bytes, start: int, avro_type: AvroType) -> None:
    """Check that ``data[start:]`` is exactly one value of ``avro_type``.

    Any encoding the Avro specification allows is accepted, the shortest or not.

    Raises
    ------
    DecodeError
        Naming the field at which the bytes stop making sense.

    References
    ----------
    Avro specification 1.12, Binary Encoding.
    """
    end = _skip(data, start, avro_type, "")
    if end != len(data):
        raise DecodeError(
            "trailing bytes after the record", expected="0", got=f"{len(data) - end} bytes"
        )


def _skip(data: bytes, at: int, node: AvroType, path: str) -> int:
    """Return the position behind the value at ``at``."""
    kind = node.kind
    width = _FIXED_WIDTH.get(kind, node.size if kind == "fixed" else -1)
    if width >= 0:
        return _advance(data, at, width, path)
    if kind in ("int", "long", "enum"):
        return _skip_number(data, at, node, path)
    if kind in ("string", "bytes"):
        return _skip_text(data, at, kind == "string", path)
    if kind == "boolean":
        if at < len(data) and data[at] > 1:
            raise DecodeError("malformed", field=path, expected="boolean", got=f"byte {data[at]}")
        return _advance(data, at, 1, path)
    if kind == "record":
        for member in node.fields:
            at = _skip(data, at, member.type, f"{path}.{member.name}" if path else member.name)
        return at
    if kind == "union":
        branch, at = _varint(data, at, path)
        _check_index(branch, len(node.branches), "union branch", path)
        return _skip(data, at, node.branches[branch], path)
    return _skip_blocks(data, at, node, path)


def _skip_number(data: bytes, at: int, node: AvroType, path: str) -> int:
    value, at = _varint(data, at, path)
    if node.kind == "enum":
        _check_index(value, len(node.symbols), "enum symbol", path)
    elif node.kind == "int" and not -(2**31) <= value < 2**31:
        raise DecodeError("malformed", field=path, expected="32-bit int", got=str(value))
    return at


def _skip_text(data: bytes, at: int, is_text: bool, path: str) -> int:
    length, at = _varint(data, at, path)
    if length < 0:
        raise DecodeError("malformed", field=path, expected="a length", got=str(length))
    end = _advance(data, at, length, path)
    if is_text:
        try:
            str(memoryview(data)[at:end], "utf-8")
        except UnicodeDecodeError as exc:
            raise DecodeError("malformed", field=path, expected="UTF-8", got=exc.reason) from exc
    return end


def _skip_blocks(data: bytes, at: int, node: AvroType, path: str) -> int:
    item = node.item()
    width = _FIXED_WIDTH.get(item.kind, item.size if item.kind == "fixed" else 0)
    while True:
        count, at = _varint(data, at, path)
        if count == 0:
            return at
        declared = None
        if count < 0:
            count = -count
            size, at = _varint(data, at, path)
            declared = at + size
        if node.kind == "array" and width:
            at = _advance(data, at, count * width, path)
        else:
            for _ in range(count):  # each item consumes bytes: truncated input ends the loop
                if node.kind == "map":
                    at = _skip_text(data, at, True, path)
                at = _skip(data, at, item, path)
        if declared is not None and declared != at:
            raise DecodeError("malformed", field=path, expected="a block of its declared size")


def _advance(data: bytes, at: int, width: int, path: str) -> int:
    if at + width > len(data):
        raise DecodeError(
            "truncated", field=path, expected=f"{width} bytes", got=f"{max(len(data) - at, 0)}"
        )
    return at + width


def _check_index(index: int, size: int, what: str, path: str) -> None:
    if not 0 <= index < size:
        raise DecodeError("malformed", field=path, expected=f"{what} below {size}", got=str(index))


def _varint(data: bytes, at: int, path: str) -> tuple[int, int]:
    """Return the zigzag number at ``at`` and the position behind it."""
    raw = shift = 0
    while True:
        if at >= len(data):
            raise DecodeError("truncated", field=path, expected="a number", got="the end")
        byte = data[at]
        at += 1
        raw |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise DecodeError("malformed", field=path, expected="a number of at most 10 bytes")
    if raw >> 64:
        raise DecodeError("malformed", field=path, expected="64-bit number")
    return (raw >> 1) ^ -(raw & 1), at
