"""Schema resolution by columns: a writer's batch read as a reader's schema without touching rows.

Covers what evolution mostly is: the writer has fields the reader does not want, or lacks fields
for which the reader has a plain default. Anything else (promotions, reordered unions, changes
inside a field) is resolved row by row in avro_rows.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from penstock_schemas.avro_batch import BatchColumns, BatchDecoder, batch_schema, is_supported
from penstock_schemas.avro_parser import parse_record
from penstock_schemas.avro_program import CompiledDecoder, batch_reader
from penstock_schemas.avro_types import AvroField

_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a reader's column comes from: the writer's column of that name, or a default."""

    column: str | None
    default: Any = None


class ProjectedDecoder:
    """Decoder of one writer's values into the columns of another schema; see `projected`."""

    def __init__(
        self,
        writer: BatchDecoder | CompiledDecoder,
        sources: list[_Source],
        schema: pa.Schema,
    ) -> None:
        self._writer = writer
        self._sources = sources
        self._schema = schema

    def decode(self, values: Sequence[bytes], raw: pa.BinaryArray | None = None) -> BatchColumns:
        """Decode what can be decoded; never raises for what the values hold.

        Parameters
        ----------
        raw
            The same values as one array, where the caller has one.
        """
        decoded = self._writer.decode(values, raw)
        arrays = [
            self._array(source, field, decoded.columns)
            for source, field in zip(self._sources, self._schema, strict=True)
        ]
        columns = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        return BatchColumns(columns, decoded.positions, decoded.doubtful)

    @staticmethod
    def _array(source: _Source, field: pa.Field, columns: pa.RecordBatch) -> pa.Array:
        if source.column is not None:
            return columns.column(source.column)
        if source.default is None:
            return pa.nulls(columns.num_rows, field.type)
        return pa.repeat(pa.scalar(source.default, field.type), columns.num_rows)


def projected(writer_text: str, reader_text: str, schema: pa.Schema) -> ProjectedDecoder | None:
    """Return the decoder of a pair of schemas, or None where columns are not enough.

    Parameters
    ----------
    schema
        Arrow schema of the reader's columns.
    """
    writer, reader = parse_record(writer_text), parse_record(reader_text)
    if not is_supported(writer) or not is_supported(reader):
        return None
    written = {field.name: field for field in writer.fields}
    sources = [_source(field, written) for field in reader.fields]
    known = [source for source in sources if source is not None]
    batches = batch_reader(writer_text, batch_schema(writer_text))
    if len(known) < len(sources) or batches is None:
        return None
    return ProjectedDecoder(batches, known, schema)


def _source(wanted: AvroField, written: dict[str, AvroField]) -> _Source | None:
    """Return where a column comes from; None where that takes more than a column."""
    names = [n for n in (wanted.name, *wanted.aliases) if n in written]
    if names:
        same = written[names[0]].type == wanted.type
        return _Source(names[0]) if same else None
    if not wanted.has_default or not isinstance(wanted.default, _PLAIN):
        return None
    return _Source(None, wanted.default)
