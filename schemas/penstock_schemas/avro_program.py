"""Framed values to columns by the compiled kernel, for the schemas that `avro_layout` lays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock_schemas import avro_kernel as kernel
from penstock_schemas.avro_batch import BatchColumns, BatchDecoder, is_supported
from penstock_schemas.avro_layout import FIXED, NUMBERS, Column, Layout, is_compiled
from penstock_schemas.avro_parser import parse_record
from penstock_schemas.avro_types import AvroType
from penstock_schemas.framing import PREFIX_BYTES

_LARGEST_BYTES: Final = 256 * 1024 * 1024
"""Larger batches are read row by row: each string column reserves as much as all input."""


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


class _Tables:
    """What the kernel has filled for one batch, as Arrow arrays."""

    def __init__(self, layout: Layout, rows: int, capacity: int) -> None:
        self.numbers = np.zeros((layout.numbers, rows), np.int64)
        self.fixed = np.zeros((layout.fixed, rows * 8), np.uint8)
        self.valid = np.ones((layout.valid, rows), np.uint8)
        # As wide as all input; only what is written takes memory.
        self.bytes = np.empty((layout.bytes, capacity), np.uint8)
        self.ends = np.zeros((layout.bytes, rows + 1), np.int32)
        self.rows = 0

    def array(self, column: Column, kind: pa.DataType) -> pa.Array:
        """Return a column of the good rows."""
        node, valid = column.node, self._validity(column)
        if node.kind == "record":
            children = [self.array(c, kind.field(i).type) for i, c in enumerate(column.children)]
            return pa.Array.from_buffers(kind, self.rows, [valid], children=children)
        if node.kind in NUMBERS:
            return self._numbers(column, kind, valid)
        if node.kind in FIXED:
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

    def _numbers(self, column: Column, kind: pa.DataType, valid: pa.Buffer | None) -> pa.Array:
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

    def _validity(self, column: Column) -> pa.Buffer | None:
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
        self._layout = Layout(record)
        self.decode([])  # compiles the kernel, or loads it, before there is anything to wait for

    def decode(self, values: Sequence[bytes], raw: pa.BinaryArray | None = None) -> BatchColumns:
        """Decode what can be decoded; never raises for what the values hold.

        Parameters
        ----------
        values
            Framed; the prefix is stepped over unseen.
        raw
            The same values as one array, without nulls and not a slice, where the caller has one.
        """
        if raw is None:
            if sum(map(len, values)) > _LARGEST_BYTES:
                return self._taken(_Tables(self._layout, 0, 0), np.zeros(len(values), np.uint8))
            raw = pa.array(values, type=pa.binary())
        good = np.zeros(len(values), np.uint8)
        _, ends, data = raw.buffers()
        size = data.size if data is not None else 0
        if size > _LARGEST_BYTES:
            return self._taken(_Tables(self._layout, 0, 0), good)
        tables = _Tables(self._layout, len(values), size)
        tables.rows = kernel.read_rows(
            np.frombuffer(data or b"", np.uint8),
            np.frombuffer(ends, np.int32, len(values) + 1),
            PREFIX_BYTES,
            self._layout.program,
            tables.numbers.ravel(),
            tables.fixed.ravel(),
            tables.valid.ravel(),
            tables.bytes.ravel(),
            tables.ends.ravel(),
            good,
            np.empty(self._layout.bytes, np.int64),
            np.empty(self._layout.bytes, np.int64),
        )
        return self._taken(tables, good)

    def _taken(self, tables: _Tables, good: npt.NDArray[np.uint8]) -> BatchColumns:
        arrays = [
            tables.array(c, f.type) for c, f in zip(self._layout.columns, self._schema, strict=True)
        ]
        columns = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        doubtful = [] if tables.rows == len(good) else np.flatnonzero(good == 0).tolist()
        return BatchColumns(columns, np.flatnonzero(good), doubtful)
