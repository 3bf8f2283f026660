"""Values to columns: Confluent-framed Avro and, for events, JSON.

The usual batch has one prefix throughout: the kernel reads it in one pass into tables, which
become Arrow columns without a copy where the type allows it. What the kernel refuses, writer's
schemas it has no program for and JSON events are read record by record (`avro_rows`,
`json_events`): slower, and with the reason and the field of each error. So a bad record never
takes its neighbours along.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock_schemas.avro_columns import arrow_schema, columns_of
from penstock_schemas.avro_kernels import FIXED, NUMBERS, Column, Layout, is_compiled, read_rows
from penstock_schemas.avro_rows import (
    MAGIC,
    PREFIX_BYTES,
    RowReader,
    parsed,
    require_schema_id,
    row_reader,
    schema_id_of,
)
from penstock_schemas.avro_schema import AvroField, AvroType, InvalidSchema, parse_record
from penstock_schemas.errors import ConfigError, DecodeError, Oversize, RecordError, SchemaError
from penstock_schemas.json_events import JsonEvents

_MAX_WRITERS: Final = 256
_LARGEST_BYTES: Final = 256 * 1024 * 1024
"""Larger batches are read row by row: each string column reserves as much as all input."""
_PLAIN: Final = (type(None), bool, int, float, str)

Resolve = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """A decoded batch; every input row is in exactly one of rows, errors and tombstones.

    Parameters
    ----------
    columns
        The good records: the reader schema's fields in its order, timestamps as Arrow timestamps.
    rows
        Shape (len(columns),), int64, ascending: the input row of each good record.
    errors
        (input row, why), ascending.
    tombstones
        Shape (n,), int64: input rows without a value. A value of no bytes is a DecodeError.
    """

    columns: pa.RecordBatch
    rows: npt.NDArray[np.int64]
    errors: list[tuple[int, RecordError]]
    tombstones: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Writer:
    """How the values of one writer's schema are read: by the kernel where possible, else rows."""

    rows: RowReader
    batch: CompiledDecoder | ProjectedDecoder | None


class _Work:
    """The rows of one batch: how each is read, and what came of it."""

    def __init__(self, values: Sequence[bytes | None]) -> None:
        self.values = values
        self.raw: pa.BinaryArray | None = None
        self.errors: list[tuple[int, RecordError]] = []
        self.tombstones: list[int] = []
        self.framed: dict[int, Sequence[int]] = {}
        self.json: list[int] = []
        self.parts: list[tuple[npt.NDArray[np.int64], pa.RecordBatch]] = []

    def fail(self, row: int, error: RecordError) -> None:
        if error.schema_id is None:
            error.schema_id = schema_id_of(self.values[row] or b"")
        self.errors.append((row, error))


class ColumnarDecoder:
    """Decoder of values into columns of one reader schema. Not thread-safe.

    Parameters
    ----------
    reader_schema
        Avro schema text: what the columns shall be.
    resolve
        Returns the writer's schema text of an id; raises SchemaError for an unknown one, which
        becomes that row's error, or RegistryUnavailable, which `decode` passes on.
    json_allowed
        Whether a value that starts with ``{`` is read as a JSON event.
    max_bytes
        Larger values are refused as Oversize, whatever they are.

    Raises
    ------
    ConfigError
        If the reader schema is invalid or has a field that no column can hold.
    """

    def __init__(
        self,
        reader_schema: str,
        resolve: Resolve,
        *,
        json_allowed: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        self._text = reader_schema
        self._resolve = resolve
        self._max_bytes = max_bytes
        self._writers: dict[int, _Writer] = {}
        try:
            record = parse_record(reader_schema)
            self._schema = arrow_schema(record)
            self._batch = CompiledDecoder(record) if is_compiled(record) else None
            self._json = JsonEvents(record) if json_allowed else None
            parsed(reader_schema)
        except InvalidSchema as exc:
            raise ConfigError(f"event schema: {exc}") from exc

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the columns."""
        return self._schema

    def decode(self, values: Sequence[bytes | None]) -> DecodedBatch:
        """Decode a batch of raw record values.

        Raises
        ------
        RegistryUnavailable
            If a schema is not known yet and the registry does not answer. No state is changed.
        """
        work = _Work(values)
        self._group_rows(work)
        for schema_id, rows in work.framed.items():
            try:
                writer = self._writer(schema_id)
            except SchemaError as exc:
                for row in rows:
                    work.fail(row, exc)
            else:
                self._read_framed(work, writer, rows)
        if self._json is not None and work.json:
            self._read_rows(work, work.json, self._json.decode)
        return self._finish(work)

    def _group_rows(self, work: _Work) -> None:
        """Group rows by how they are read: by schema id, as JSON, or not at all."""
        values, limit = work.values, self._max_bytes
        alike = _framed_alike(values, limit)
        if alike is not None:
            schema_id, work.raw = alike
            work.framed[schema_id] = range(len(values))
            return
        by_id = defaultdict[int, list[int]](list)
        for row, value in enumerate(values):
            if value is None:
                work.tombstones.append(row)
            elif limit is not None and (size := len(value)) > limit:
                expected = f"≤ {limit} bytes"
                work.fail(
                    row, Oversize("the record is too large", expected=expected, got=str(size))
                )
            elif self._json is not None and value[:1] == b"{":
                work.json.append(row)
            else:
                try:
                    by_id[require_schema_id(value)].append(row)
                except DecodeError as exc:
                    work.fail(row, exc)
        work.framed.update(by_id)

    def _writer(self, schema_id: int) -> _Writer:
        known = self._writers.get(schema_id)
        if known is None:
            text = self._resolve(schema_id)
            reader = row_reader(text, self._text)
            batch = self._batch if reader.same_layout else projected(text, self._text)
            if len(self._writers) >= _MAX_WRITERS:
                del self._writers[next(iter(self._writers))]
            known = self._writers[schema_id] = _Writer(reader, batch)
        return known

    def _read_framed(self, work: _Work, writer: _Writer, rows: Sequence[int]) -> None:
        if writer.batch is None:
            self._read_rows(work, rows, writer.rows.read)
            return
        if work.raw is not None:  # then all rows have this writer
            index = np.arange(len(rows), dtype=np.int64)
            decoded = writer.batch.decode(cast("Sequence[bytes]", work.values), work.raw)
        else:
            index = np.asarray(rows, dtype=np.int64)
            decoded = writer.batch.decode([work.values[r] or b"" for r in rows])
        work.parts.append((index[decoded.positions], decoded.columns))
        if decoded.refused:
            self._read_rows(work, index[decoded.refused].tolist(), writer.rows.read)

    def _read_rows(
        self, work: _Work, rows: Sequence[int], read: Callable[[bytes], dict[str, Any]]
    ) -> None:
        good: list[int] = []
        records: list[dict[str, Any]] = []
        for row in rows:
            try:
                records.append(read(work.values[row] or b""))
                good.append(row)
            except RecordError as exc:
                work.fail(row, exc)
        try:
            columns = columns_of(records, self._schema)
        except (pa.ArrowException, ValueError, OverflowError, TypeError) as exc:
            self._read_singly(work, good, records, exc)
            return
        work.parts.append((np.asarray(good, dtype=np.int64), columns))

    def _read_singly(
        self, work: _Work, rows: list[int], records: list[dict[str, Any]], cause: Exception
    ) -> None:
        """Find which records do not fit their columns, such as a decimal of too many digits."""
        for row, record in zip(rows, records, strict=True):
            try:
                columns = columns_of([record], self._schema)
            except (pa.ArrowException, ValueError, OverflowError, TypeError) as exc:
                error = SchemaError("a value does not fit its column", got=type(exc).__name__)
                error.__cause__ = cause
                work.fail(row, error)
            else:
                work.parts.append((np.asarray([row], dtype=np.int64), columns))

    def _finish(self, work: _Work) -> DecodedBatch:
        parts = [part for part in work.parts if len(part[0])]
        rows, columns = parts[0] if parts else (np.empty(0, np.int64), columns_of([], self._schema))
        if len(parts) > 1:
            rows = np.concatenate([p[0] for p in parts])
            columns = pa.concat_batches([p[1] for p in parts])
            if np.any(np.diff(rows) < 0):
                order = np.argsort(rows)
                rows, columns = rows[order], columns.take(pa.array(order))
        work.errors.sort(key=lambda entry: entry[0])
        tombstones = np.asarray(work.tombstones, dtype=np.int64)
        return DecodedBatch(columns, rows, work.errors, tombstones)


def _framed_alike(
    values: Sequence[bytes | None], max_bytes: int | None
) -> tuple[int, pa.BinaryArray] | None:
    """Return the one schema id of all values, and the values as one array.

    None if there are two ids, a value without a prefix, a tombstone, or one that is too large.
    """
    raw = pa.array(values, type=pa.binary())
    if not len(raw) or isinstance(raw, pa.ChunkedArray) or raw.null_count:
        return None
    _, ends_buffer, data_buffer = raw.buffers()
    ends = np.frombuffer(ends_buffer, np.int32, len(raw) + 1)
    lengths = np.diff(ends)
    if lengths.min() < PREFIX_BYTES or (max_bytes is not None and lengths.max() > max_bytes):
        return None
    data = np.frombuffer(data_buffer, np.uint8)
    starts = ends[:-1]
    alike = data[0] == MAGIC and all(
        (data[starts + i] == data[i]).all() for i in range(PREFIX_BYTES)
    )
    return (int.from_bytes(data[1:PREFIX_BYTES].tobytes(), "big"), raw) if alike else None


@dataclass(frozen=True, slots=True)
class BatchColumns:
    """What the kernel has read of a batch.

    Parameters
    ----------
    positions
        Shape (len(columns),), int64, ascending: positions of the rows in the columns.
    refused
        The other positions, for the row reader, which names the reason.
    """

    columns: pa.RecordBatch
    positions: npt.NDArray[np.int64]
    refused: list[int]


class CompiledDecoder:
    """Decoder of framed values of one schema, which `is_compiled`, by the kernel."""

    def __init__(self, record: AvroType) -> None:
        self._schema = arrow_schema(record)
        self._layout = Layout(record)
        self.decode([])  # compiles the kernel, or loads it, before the first batch

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
                return self._columns(_Tables(self._layout, 0, 0), np.zeros(len(values), np.uint8))
            raw = pa.array(values, type=pa.binary())
        good = np.zeros(len(values), np.uint8)
        _, ends, data = raw.buffers()
        size = data.size if data is not None else 0
        if size > _LARGEST_BYTES:
            return self._columns(_Tables(self._layout, 0, 0), good)
        tables = _Tables(self._layout, len(values), size)
        tables.rows = read_rows(
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
        return self._columns(tables, good)

    def _columns(self, tables: _Tables, good: npt.NDArray[np.uint8]) -> BatchColumns:
        arrays = [
            tables.array(c, f.type) for c, f in zip(self._layout.columns, self._schema, strict=True)
        ]
        columns = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        refused = [] if tables.rows == len(good) else np.flatnonzero(good == 0).tolist()
        return BatchColumns(columns, np.flatnonzero(good), refused)


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


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a reader's column comes from: the writer's column of that name, or a default."""

    column: str | None
    default: Any = None


class ProjectedDecoder:
    """Decoder of one writer's values into the columns of another schema; see `projected`."""

    def __init__(self, writer: AvroType, sources: list[_Source], schema: pa.Schema) -> None:
        self._writer = CompiledDecoder(writer)
        self._sources = sources
        self._schema = schema

    def decode(self, values: Sequence[bytes], raw: pa.BinaryArray | None = None) -> BatchColumns:
        """Decode what can be decoded; as `CompiledDecoder.decode`."""
        decoded = self._writer.decode(values, raw)
        arrays = [
            self._array(source, field, decoded.columns)
            for source, field in zip(self._sources, self._schema, strict=True)
        ]
        columns = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        return BatchColumns(columns, decoded.positions, decoded.refused)

    @staticmethod
    def _array(source: _Source, field: pa.Field, columns: pa.RecordBatch) -> pa.Array:
        if source.column is not None:
            return columns.column(source.column)
        if source.default is None:
            return pa.nulls(columns.num_rows, field.type)
        return pa.repeat(pa.scalar(source.default, field.type), columns.num_rows)


def projected(writer_text: str, reader_text: str) -> ProjectedDecoder | None:
    """Return the decoder of a pair of schemas by columns, without touching rows.

    It covers what evolution mostly is: the writer has fields that the reader does not want, or
    lacks fields for which the reader has a plain default. None for anything else (promotions,
    reordered unions, changes inside a field): the row reader resolves these.
    """
    writer, reader = parse_record(writer_text), parse_record(reader_text)
    if not is_compiled(writer) or not is_compiled(reader):
        return None
    written = {field.name: field for field in writer.fields}
    sources = [_source(field, written) for field in reader.fields]
    known = [source for source in sources if source is not None]
    if len(known) < len(sources):
        return None
    return ProjectedDecoder(writer, known, arrow_schema(reader))


def _source(wanted: AvroField, written: dict[str, AvroField]) -> _Source | None:
    """Return where a column comes from; None where that takes more than a column."""
    names = [n for n in (wanted.name, *wanted.aliases) if n in written]
    if names:
        same = written[names[0]].type == wanted.type
        return _Source(names[0]) if same else None
    if not wanted.has_default or not isinstance(wanted.default, _PLAIN):
        return None
    return _Source(None, wanted.default)
