"""Arrow columns of an Avro record: the types, and columns built from rows of Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from penstock_schemas.avro_schema import AvroType, InvalidSchema

_PRIMITIVE: Final = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "enum": pa.string(),
    "bytes": pa.binary(),
    "null": pa.null(),
}
_TIME: Final = {
    "date": pa.date32(),
    "time-millis": pa.time32("ms"),
    "time-micros": pa.time64("us"),
    "timestamp-millis": pa.timestamp("ms"),
    "timestamp-micros": pa.timestamp("us"),
    "local-timestamp-millis": pa.timestamp("ms"),
    "local-timestamp-micros": pa.timestamp("us"),
}
_PRECISION_OF_DECIMAL128: Final = 38
_PRECISION_OF_DECIMAL256: Final = 76


def arrow_schema(record: AvroType) -> pa.Schema:
    """Return the Arrow schema of a record: one column per field, in order.

    Timestamps are ``timestamp[ms]`` (or us) without zone, meaning UTC; enums are strings.

    Raises
    ------
    InvalidSchema
        If a field has no column form: a union of more than null and one type.
    """
    fields = []
    for member in record.fields:
        may_be_null = member.type.kind == "null" or member.type.optional is not None
        fields.append(pa.field(member.name, _arrow_type(member.type), may_be_null))
    return pa.schema(fields)


def _arrow_type(node: AvroType) -> pa.DataType:
    node = node.optional or node
    if node.logical in _TIME:
        return _TIME[node.logical]
    if node.logical == "decimal":
        if node.precision <= _PRECISION_OF_DECIMAL128:
            return pa.decimal128(node.precision, node.scale)
        if node.precision <= _PRECISION_OF_DECIMAL256:
            return pa.decimal256(node.precision, node.scale)
        raise InvalidSchema(f"decimal of more than {_PRECISION_OF_DECIMAL256} digits")
    if node.kind in _PRIMITIVE:
        return _PRIMITIVE[node.kind]
    if node.kind == "fixed":
        return pa.binary(node.size)
    if node.kind == "record":
        return pa.struct([pa.field(f.name, _arrow_type(f.type)) for f in node.fields])
    if node.kind == "array":
        return pa.list_(_arrow_type(node.item()))
    if node.kind == "map":
        return pa.map_(pa.string(), _arrow_type(node.item()))
    raise InvalidSchema(f"no column holds {node.describe()}: use null and one type")


def columns_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Build columns from rows of Python values, timestamps as numbers.

    Raises
    ------
    pyarrow.ArrowException, ValueError, OverflowError
        If a value does not fit its column; the caller then tries the rows one by one.
    """
    arrays = [pa.array([row[f.name] for row in rows], type=f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
