"""An Avro record compiled to a flat program for `avro_kernel`, and the columns it fills.

The program walks the schema depth first; each step names the slot of its column. What the kernel
does not know (maps, unions of more than null and one type, bytes, decimals, arrays of anything but
floats) is not compiled: such schemas are read by `avro_batch` or row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock_schemas import avro_kernel as kernel
from penstock_schemas.avro_batch import BatchColumns, BatchDecoder, is_supported
from penstock_schemas.avro_parser import parse_record
from penstock_schemas.avro_types import AvroType
from penstock_schemas.framing import PREFIX_BYTES

_NUMBERS: Final = {
    "int": kernel.INT,
    "long": kernel.LONG,
    "enum": kernel.ENUM,
    "boolean": kernel.BOOLEAN,
}
_FIXED: Final = {"float": kernel.FLOAT, "double": kernel.DOUBLE}
_ITEMS: Final = {"float": kernel.FLOATS, "double": kernel.DOUBLES}
_LOGICAL: Final = frozenset({None, "date", "timestamp-millis", "timestamp-micros"})
_LARGEST_BYTES: Final = 256 * 1024 * 1024
"""Larger batches are read row by row: each string column reserves as much as all input."""


def is_compiled(node: AvroType) -> bool:
    """Tell whether a type can be compiled."""
    node = node.optional or node
    if node.logical not in _LOGICAL:
        return False
    if node.kind == "record":
        return bool(node.fields) and all(is_compiled(f.type) for f in node.fields)
    if node.kind == "array":
        return node.item().kind in _ITEMS and node.item().logical is None
    return node.kind in _NUMBERS or node.kind in _FIXED or node.kind == "string"


def batch_reader(schema_text: str, schema: pa.Schema) -> CompiledDecoder | BatchDecoder | None:
    """Return the fastest reader of whole batches of a schema; None where there is none.

    Parameters
    ----------
    schema
        Arrow schema of the columns.
    """
    record = parse_record(schema_text)
    if is_compiled(record):
        return CompiledDecoder(record, schema)
    return BatchDecoder(schema_text) if is_supported(record) else None


@dataclass(slots=True)
class _Column:
    """A column to be: where its parts lie in the kernel's tables."""

    node: AvroType
    slot: int = -1
    valid: int = -1
    children: list[_Column] = field(default_factory=list)


class _Compiler:
    """Lays out the program of one record."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []
        self.numbers = self.fixed = self.valid = self.bytes = 0

    def column(self, node: AvroType) -> _Column:
        inner = node.optional
        if inner is None:
            return self._value(node)
        step = [kernel.OPTIONAL, self.valid, int(node.branches[1].kind == "null"), 0]
        self.valid += 1
        self.steps.append(step)
        column = self._value(inner)
        column.valid = step[1]
        step[3] = len(self.steps) * kernel.STEP
        return column

    def _value(self, node: AvroType) -> _Column:
        if node.kind == "record":
            return _Column(node, children=[self.column(f.type) for f in node.fields])
        if node.kind in _NUMBERS:
            slot, self.numbers = self.numbers, self.numbers + 1
            op = _NUMBERS[node.kind]
        elif node.kind in _FIXED:
            slot, self.fixed = self.fixed, self.fixed + 1
            op = _FIXED[node.kind]
        else:
            slot, self.bytes = self.bytes, self.bytes + 1
            op = kernel.STRING if node.kind == "string" else _ITEMS[node.item().kind]
        self.steps.append([op, slot, len(node.symbols), 0])
        return _Column(node, slot)


class _Tables:
    """What the kernel has filled for one batch, as Arrow arrays."""

    def __init__(self, compiler: _Compiler, rows: int, capacity: int) -> None:
        self.numbers = np.zeros((compiler.numbers, rows), np.int64)
        self.fixed = np.zeros((compiler.fixed, rows * 8), np.uint8)
        self.valid = np.ones((compiler.valid, rows), np.uint8)
        # As wide as all input; only what is written takes memory.
        self.bytes = np.empty((compiler.bytes, capacity), np.uint8)
        self.ends = np.zeros((compiler.bytes, rows + 1), np.int32)
        self.rows = 0

    def array(self, column: _Column, kind: pa.DataType) -> pa.Array:
        """Return a column of the good rows."""
        node, valid = column.node, self._validity(column)
        if node.kind == "record":
            children = [self.array(c, kind.field(i).type) for i, c in enumerate(column.children)]
            return pa.Array.from_buffers(kind, self.rows, [valid], children=children)
        if node.kind in _NUMBERS:
            return self._numbers(column, kind, valid)
        if node.kind in _FIXED:
            width = kind.byte_width
            cells = self.fixed[column.slot, : self.rows * 8].reshape(self.rows, 8)[:, :width]
            data = pa.py_buffer(np.ascontiguousarray(cells))
            return pa.Array.from_buffers(kind, self.rows, [valid, data])
        ends = self.ends[column.slot, : self.rows + 1]
        data = pa.py_buffer(self.bytes[column.slot, : ends[-1]])
        if node.kind == "string":
            return pa.Array.from_buffers(kind, self.rows, [valid, pa.py_buffer(ends), data])
        width = kind.value_type.byte_width
        items = pa.Array.from_buffers(kind.value_type, int(ends[-1]) // width, [None, data])
        offsets = pa.py_buffer(ends // np.int32(width))
        return pa.Array.from_buffers(kind, self.rows, [valid, offsets], children=[items])

    def _numbers(self, column: _Column, kind: pa.DataType, valid: pa.Buffer | None) -> pa.Array:
        values = self.numbers[column.slot, : self.rows]
        if column.node.kind == "enum":
            index = pa.Array.from_buffers(pa.int64(), self.rows, [valid, pa.py_buffer(values)])
            return pa.array(column.node.symbols, type=kind).take(index)
        data: npt.NDArray[np.integer] = values
        if column.node.kind == "boolean":
            data = np.packbits(values.astype(np.uint8), bitorder="little")
        elif column.node.kind == "int":
            data = values.astype(np.int32)
        return pa.Array.from_buffers(kind, self.rows, [valid, pa.py_buffer(data)])

    def _validity(self, column: _Column) -> pa.Buffer | None:
        if column.valid < 0:
            return None
        flags = self.valid[column.valid, : self.rows]
        return None if flags.all() else pa.py_buffer(np.packbits(flags, bitorder="little"))


class CompiledDecoder:
    """Decoder of framed values of one schema, which `is_compiled`.

    Parameters
    ----------
    record
        The schema of the values.
    schema
        Arrow schema of the columns, one per field.
    """

    def __init__(self, record: AvroType, schema: pa.Schema) -> None:
        self._schema = schema
        self._compiler = _Compiler()
        self._columns = [self._compiler.column(f.type) for f in record.fields]
        self._program = np.asarray(self._compiler.steps, dtype=np.int64).ravel()
        self.decode([])  # compiles the kernel, or loads it, before there is anything to wait for

    def decode(self, values: Sequence[bytes]) -> BatchColumns:
        """Decode what can be decoded; never raises for what the values hold.

        Parameters
        ----------
        values
            Framed; the prefix is stepped over unseen.
        """
        if sum(map(len, values)) > _LARGEST_BYTES:
            return self._taken(_Tables(self._compiler, 0, 0), np.zeros(len(values), np.uint8))
        return self.decode_array(pa.array(values, type=pa.binary()))

    def decode_array(self, values: pa.BinaryArray) -> BatchColumns:
        """Decode values that are an array already, without nulls and not a slice."""
        good = np.zeros(len(values), np.uint8)
        _, ends, data = values.buffers()
        size = data.size if data is not None else 0
        if size > _LARGEST_BYTES:
            return self._taken(_Tables(self._compiler, 0, 0), good)
        tables = _Tables(self._compiler, len(values), size)
        tables.rows = kernel.read_rows(
            np.frombuffer(data or b"", np.uint8),
            np.frombuffer(ends, np.int32, len(values) + 1),
            PREFIX_BYTES,
            self._program,
            tables.numbers.ravel(),
            tables.fixed.ravel(),
            tables.valid.ravel(),
            tables.bytes.ravel(),
            tables.ends.ravel(),
            good,
            np.empty(self._compiler.bytes, np.int64),
            np.empty(self._compiler.bytes, np.int64),
        )
        return self._taken(tables, good)

    def _taken(self, tables: _Tables, good: npt.NDArray[np.uint8]) -> BatchColumns:
        arrays = [tables.array(c, f.type) for c, f in zip(self._columns, self._schema, strict=True)]
        columns = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        doubtful = [] if tables.rows == len(good) else np.flatnonzero(good == 0).tolist()
        return BatchColumns(columns, np.flatnonzero(good), doubtful)
