"""How a foreign producer writes a record: Confluent framing around Avro, or plain JSON.

On purpose none of this is Penstock's own codec: what the simulator sends proves that any
application may send it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import fastavro
import pyarrow as pa

Row = Mapping[str, Any]


def avro_writer(schema_text: str, schema_id: int) -> Callable[[Row], bytes]:
    """Return a function that writes one record with the prefix 0x00 and the 4-byte schema id."""
    schema = fastavro.parse_schema(json.loads(schema_text))
    prefix = struct.pack(">bI", 0, schema_id)
    buffer = BytesIO()

    def write(row: Row) -> bytes:
        buffer.seek(0)
        buffer.truncate()
        buffer.write(prefix)
        fastavro.schemaless_writer(buffer, schema, row)
        return buffer.getvalue()

    return write


def json_bytes(row: Row) -> bytes:
    """Write one record as a JSON object; times as integer milliseconds."""
    return json.dumps(row, separators=(",", ":")).encode()


def rows_of(columns: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return columns as plain rows; timestamps as integer milliseconds, as Avro wants them."""
    lists = []
    for column in columns.columns:
        plain = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        lists.append(plain.to_pylist())
    names = columns.schema.names
    return [dict(zip(names, values, strict=True)) for values in zip(*lists, strict=True)]
