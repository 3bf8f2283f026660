"""Records to bytes and back. Users of the codec import from here.

Batches of hot topics are columns (`ColumnarDecoder`, `ColumnarEncoder`); single records of
low-rate topics are dictionaries (`encode_one`, `decode_one`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock_schemas.avro_decode import ColumnarDecoder, DecodedBatch, Resolve
from penstock_schemas.avro_encode import ColumnarEncoder
from penstock_schemas.avro_rows import datum, parsed, prefix, require_schema_id, row_reader

__all__ = [
    "ColumnarDecoder",
    "ColumnarEncoder",
    "DecodedBatch",
    "Resolve",
    "decode_one",
    "encode_one",
]


def encode_one(schema: str, schema_id: int, record: Mapping[str, Any]) -> bytes:
    """Return one record as framed Avro; timestamps are numbers in the schema's unit.

    Raises
    ------
    SchemaError
        If the record does not fit the schema.
    """
    return prefix(schema_id) + datum(parsed(schema), record)


def decode_one(payload: bytes, resolve: Resolve, reader_schema: str) -> dict[str, Any]:
    """Return one framed record; timestamps are numbers in the schema's unit.

    Raises
    ------
    DecodeError, SchemaError
        If the bytes or the schema are bad; as `ColumnarDecoder`.
    RegistryUnavailable
        From ``resolve``.
    """
    schema_id = require_schema_id(payload)
    return row_reader(resolve(schema_id), reader_schema).read(payload)
