"""One Avro record at a time: the judge of every record that the batch decoder does not vouch for.

Also schema resolution: where the writer's schema is not the reader's, records are read here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any, Final

import fastavro
from fastavro.read import SchemaResolutionError

from penstock_schemas.avro_parser import parse_record, without_logical_types
from penstock_schemas.avro_types import AvroType, InvalidSchema
from penstock_schemas.avro_wire import check_datum
from penstock_schemas.compatibility import Conflict, find_conflicts
from penstock_schemas.errors import DecodeError, SchemaError
from penstock_schemas.framing import PREFIX_BYTES

_KEPT: Final = frozenset({"decimal"})
"""Logical types left to the library; times stay numbers."""


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
        except Exception as exc:  # the bytes come from outside: whatever they cause is theirs
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
    """Return the reader's schema under the writer's name: a topic's owner names its records."""
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
