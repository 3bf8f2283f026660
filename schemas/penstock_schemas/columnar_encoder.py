"""Columns to values: Confluent-framed Avro."""

from __future__ import annotations

import pyarrow as pa

from penstock_schemas.avro_batch import batch_schema, is_supported, serialize
from penstock_schemas.avro_columns import arrow_schema, find_null
from penstock_schemas.avro_layout import is_compiled
from penstock_schemas.avro_parser import parse_record
from penstock_schemas.avro_rows import datum, number_schema, parsed
from penstock_schemas.avro_types import InvalidSchema
from penstock_schemas.compiled_encoder import CompiledEncoder
from penstock_schemas.errors import ConfigError, SchemaError
from penstock_schemas.framing import prefix


class ColumnarEncoder:
    """Encoder of columns into Confluent-framed Avro values.

    Parameters
    ----------
    schema
        Avro schema text of the records.
    schema_id
        Its id in the registry.

    Raises
    ------
    ConfigError
        If the schema is invalid or has a field that no column can hold.
    """

    def __init__(self, schema: str, schema_id: int) -> None:
        self._text = schema
        self._prefix = prefix(schema_id)
        try:
            self._record = parse_record(schema)
            self._is_batch = is_supported(self._record)
            self._schema = (
                batch_schema(schema) if self._is_batch else arrow_schema(number_schema(schema))
            )
            self._parsed = parsed(schema)
            self._compiled = (
                CompiledEncoder(self._record, self._prefix) if is_compiled(self._record) else None
            )
        except InvalidSchema as exc:
            raise ConfigError(f"record schema: {exc}") from exc

    def encode(self, columns: pa.RecordBatch) -> list[bytes]:
        """Return one framed value per row.

        Raises
        ------
        ValueError
            If a column is missing, has another type, or holds a null or an enum symbol that its
            field does not allow; nothing is encoded then.
        """
        columns = self._conform(columns)
        null = find_null(columns, self._record)
        if null is not None:
            raise ValueError(f"column {null!r} holds a null and its field is required")
        if self._compiled is not None:
            return self._compiled.encode(columns)
        if self._is_batch:
            return serialize(columns, self._text, self._prefix)
        rows = columns.to_pylist(maps_as_pydicts="strict")
        try:
            return [self._prefix + datum(self._parsed, row) for row in rows]
        except SchemaError as exc:
            raise ValueError(str(exc)) from exc

    def _conform(self, columns: pa.RecordBatch) -> pa.RecordBatch:
        wanted = self._schema
        missing = [n for n in wanted.names if n not in columns.schema.names]
        if missing:
            raise ValueError(f"column {missing[0]!r} is missing")
        if columns.schema.names != wanted.names:
            columns = columns.select(wanted.names)
        if columns.schema.types != wanted.types:
            arrays = [columns.column(f.name).cast(f.type) for f in wanted]
            columns = pa.RecordBatch.from_arrays(arrays, names=wanted.names)
        return columns
