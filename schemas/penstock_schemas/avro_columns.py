"""Arrow columns of an Avro record: the types, and columns built from rows of Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from penstock_schemas.avro_types import AvroType, InvalidSchema

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
    return pa.schema(
        [pa.field(f.name, _arrow_type(f.type), _may_be_null(f.type)) for f in record.fields]
    )


def _may_be_null(node: AvroType) -> bool:
    return node.kind == "null" or node.optional is not None


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


def holds_map(kind: pa.DataType) -> bool:
    """Tell whether a type is a map or has one inside."""
    return pa.types.is_map(kind) or any(
        holds_map(kind.field(i).type) for i in range(kind.num_fields)
    )


def repeats_key(array: pa.Array) -> bool:
    """Tell whether any map in an unsliced array has a key twice; row readers keep the last."""
    if not holds_map(array.type):
        return False
    if pa.types.is_map(array.type):
        keys = array.keys.dictionary_encode()
        owners = np.repeat(np.arange(len(array)), np.diff(array.offsets.to_numpy()))
        pairs = owners * (len(keys.dictionary) + 1) + keys.indices.to_numpy()
        return len(np.unique(pairs)) < len(pairs) or repeats_key(array.items)
    if pa.types.is_list(array.type):
        return repeats_key(array.values)
    return any(repeats_key(array.field(i)) for i in range(array.type.num_fields))


def find_null(columns: pa.RecordBatch, record: AvroType) -> str | None:
    """Return the path of a required field that holds a null; None if there is none.

    The batch encoder would write such a null as an empty value, silently.
    """
    for member in record.fields:
        found = _null_in(columns.column(member.name), member.type, member.name)
        if found is not None:
            return found
    return None


def _null_in(array: pa.Array, node: AvroType, path: str) -> str | None:
    inner = node.optional or node
    if array.null_count:
        if node.optional is None and node.kind != "null":
            return path
        if inner.kind not in ("record", "array", "map"):
            return None
        array = array.drop_null()
    if inner.kind == "record":
        for position, member in enumerate(inner.fields):
            found = _null_in(array.flatten()[position], member.type, f"{path}.{member.name}")
            if found is not None:
                return found
    elif inner.kind == "array":
        # Flattening copies, so it is left out where it cannot matter.
        is_plain = inner.item().kind in _PRIMITIVE and not array.values.null_count
        return None if is_plain else _null_in(array.flatten(), inner.item(), f"{path}[]")
    elif inner.kind == "map":
        if not len(array):
            return None
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return _null_in(array.items.slice(first, last - first), inner.item(), f"{path}{{}}")
    return None
