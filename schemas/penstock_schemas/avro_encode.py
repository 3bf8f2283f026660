"""Columns to values: Confluent-framed Avro, by the kernel where it has a program for the schema.

Other schemas are written record by record with fastavro (`avro_rows`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock_schemas.avro_columns import arrow_schema
from penstock_schemas.avro_kernels import (
    FIXED,
    LONGEST_NUMBER,
    NUMBERS,
    STEP,
    Column,
    Layout,
    is_compiled,
    write_rows,
)
from penstock_schemas.avro_rows import datum, number_schema, parsed, prefix
from penstock_schemas.avro_schema import PRIMITIVES, AvroType, InvalidSchema, parse_record
from penstock_schemas.errors import ConfigError, SchemaError

_LONGEST_STEP: Final = LONGEST_NUMBER + 1
"""Most bytes of a step beside the data: the length of an array and its end."""


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
        self._prefix = prefix(schema_id)
        try:
            self._record = parse_record(schema)
            self._parsed = parsed(schema)
            self._compiled = (
                CompiledEncoder(self._record, self._prefix) if is_compiled(self._record) else None
            )
            # fastavro takes times as numbers.
            record = number_schema(schema) if self._compiled is None else self._record
            self._schema = arrow_schema(record)
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
        null = _find_null(columns, self._record)
        if null is not None:
            raise ValueError(f"column {null!r} holds a null and its field is required")
        if self._compiled is not None:
            return self._compiled.encode(columns)
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


def _find_null(columns: pa.RecordBatch, record: AvroType) -> str | None:
    """Return the path of a required field that holds a null; None if there is none.

    The kernel would write such a null as an empty value, silently.
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
        is_plain = inner.item().kind in (*PRIMITIVES, "enum") and not array.values.null_count
        return None if is_plain else _null_in(array.flatten(), inner.item(), f"{path}[]")
    elif inner.kind == "map":
        if not len(array):
            return None
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return _null_in(array.items.slice(first, last - first), inner.item(), f"{path}{{}}")
    return None


class CompiledEncoder:
    """Encoder of columns of one schema, which `is_compiled`.

    Parameters
    ----------
    record
        The schema of the values.
    head
        Bytes before each datum.
    """

    def __init__(self, record: AvroType, head: bytes) -> None:
        self._layout = Layout(record)
        self._head = np.frombuffer(head, np.uint8)
        # Compiles the kernel, or loads it, before the first batch.
        self._write(_Tables(self._layout, 0))

    def encode(self, columns: pa.RecordBatch) -> list[bytes]:
        """Return the framed value of each row.

        Parameters
        ----------
        columns
            One per field, of the Arrow type of the schema, without a null where none is allowed.

        Raises
        ------
        ValueError
            If a value is no symbol of its enum.
        """
        if not columns.num_rows:
            return []
        tables = _Tables(self._layout, columns.num_rows)
        for column, array in zip(self._layout.columns, columns.columns, strict=True):
            tables.fill(column, array)
        return self._write(tables)

    def _write(self, tables: _Tables) -> list[bytes]:
        rows = tables.rows
        data = tables.data()
        longest = len(self._head) + len(self._layout.program) // STEP * _LONGEST_STEP
        out = np.empty(data.size + rows * longest, np.uint8)
        ends = np.empty(rows + 1, np.int64)
        write_rows(
            self._head,
            self._layout.program,
            tables.numbers.ravel(),
            tables.fixed.ravel(),
            tables.valid.ravel(),
            data,
            tables.ends.ravel(),
            out,
            ends,
        )
        whole = out[: ends[-1]].tobytes()
        places = ends.tolist()
        return [whole[a:b] for a, b in pairwise(places)]


class _Tables:
    """The columns of one batch in the tables that the kernel reads."""

    def __init__(self, layout: Layout, rows: int) -> None:
        self.rows = rows
        self.numbers = np.empty((layout.numbers, rows), np.int64)
        self.fixed = np.empty((layout.fixed, rows * 8), np.uint8)
        self.valid = np.ones((layout.valid, rows), np.uint8)
        self.ends = np.zeros((layout.bytes, rows + 1), np.int64)
        self._parts: list[npt.NDArray[np.uint8]] = []
        self._size = 0

    def data(self) -> npt.NDArray[np.uint8]:
        """Return what all strings and arrays hold, one column behind the other."""
        return np.concatenate(self._parts) if self._parts else np.empty(0, np.uint8)

    def fill(self, column: Column, array: pa.Array) -> None:
        """Copy a column of as many rows into the tables."""
        if column.valid >= 0 and array.null_count:
            self.valid[column.valid] = array.is_valid().to_numpy(zero_copy_only=False)
        node = column.node
        if node.kind == "record":
            # flatten() honours the array's own offset, field() does not.
            for child, part in zip(column.children, array.flatten(), strict=True):
                self.fill(child, part)
        elif node.kind in NUMBERS:
            self.numbers[column.slot] = _numbers(node, array)
        elif node.kind in FIXED:
            width = array.type.byte_width
            cells = self.fixed[column.slot].reshape(self.rows, 8)[:, :width]
            cells[:] = _values(array, width).reshape(self.rows, width)
        else:
            self._fill_bytes(column.slot, array)

    def _fill_bytes(self, slot: int, array: pa.Array) -> None:
        ends = _ends(array)
        if pa.types.is_list(array.type):
            width = array.type.value_type.byte_width
            data, ends = _values(array.values, width), ends * width
        else:
            buffer = array.buffers()[2]
            data = np.frombuffer(buffer, np.uint8) if buffer is not None else self.fixed[:0].ravel()
        first = ends[0]
        np.add(ends, self._size - first, out=self.ends[slot])
        self._parts.append(data[first : ends[-1]])
        self._size += int(ends[-1] - first)


def _ends(array: pa.Array) -> npt.NDArray[np.int64]:
    """Return where each entry of a string or list array lies in its data; shape (n + 1,)."""
    buffer = np.frombuffer(array.buffers()[1], np.int32)
    return buffer[array.offset : array.offset + len(array) + 1].astype(np.int64)


def _values(array: pa.Array, width: int) -> npt.NDArray[np.uint8]:
    """Return the bytes of a fixed-width array; those of nulls are arbitrary."""
    start = array.offset * width
    return np.frombuffer(array.buffers()[1], np.uint8)[start : start + len(array) * width]


def _numbers(node: AvroType, array: pa.Array) -> Any:
    """Return a column of numbers; those of nulls are arbitrary.

    Raises
    ------
    ValueError
        If a value is no symbol of its enum.
    """
    if node.kind == "enum":
        index = pc.index_in(array, value_set=pa.array(node.symbols, type=array.type))
        if index.null_count > array.null_count:
            unknown = array.filter(pc.and_(index.is_null(), array.is_valid()))[0]
            raise ValueError(f"{unknown.as_py()!r} is no symbol of {list(node.symbols)}")
        return index.fill_null(0).to_numpy()
    if node.kind == "boolean":
        return array.fill_null(False).to_numpy(zero_copy_only=False)
    width = array.type.byte_width
    return _values(array, width).view(np.int32 if width == 4 else np.int64)
