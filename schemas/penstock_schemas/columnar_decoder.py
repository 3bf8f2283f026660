"""Values to columns: Confluent-framed Avro and, for events, JSON.

A batch is decoded at once, by our own kernel where the schema allows it (`avro_program`), in Rust
otherwise (`avro_batch`). Whatever these do not vouch for goes record by record to
`avro_rows.RowReader`, so that a bad record never takes its neighbours along and has its reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock_schemas.avro_batch import BatchDecoder, batch_schema, is_supported
from penstock_schemas.avro_columns import arrow_schema, columns_of
from penstock_schemas.avro_parser import parse_record
from penstock_schemas.avro_program import CompiledDecoder, batch_reader
from penstock_schemas.avro_projection import ProjectedDecoder, projected
from penstock_schemas.avro_rows import RowReader, parsed, row_reader
from penstock_schemas.avro_types import InvalidSchema
from penstock_schemas.errors import ConfigError, DecodeError, Oversize, RecordError, SchemaError
from penstock_schemas.framing import framed_alike, require_schema_id, schema_id_of
from penstock_schemas.json_events import JsonEvents

SMALL_BATCH_ROWS: Final = 8
"""Up to this many records are read one by one: measured, a call to Rust has a fixed cost."""
_MAX_WRITERS: Final = 256

Resolve = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class _Writer:
    """How the values of one writer's schema are read: batches where possible, else rows."""

    rows: RowReader
    batch: CompiledDecoder | BatchDecoder | ProjectedDecoder | None


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


class _Work:
    """What is known so far about the rows of one batch."""

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
            is_batch = is_supported(record)
            self._schema = batch_schema(reader_schema) if is_batch else arrow_schema(record)
            self._batch = batch_reader(reader_schema, self._schema)
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
        self._sort(work)
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

    def _sort(self, work: _Work) -> None:
        """Put each row where it is read: by schema id, as JSON, or straight to the errors."""
        values, limit = work.values, self._max_bytes
        work.raw = framed_alike(values, limit)
        if work.raw is not None:
            work.framed[require_schema_id(values[0] or b"")] = range(len(values))
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
            same = reader.same_layout
            batch = self._batch if same else projected(text, self._text, self._schema)
            if len(self._writers) >= _MAX_WRITERS:
                del self._writers[next(iter(self._writers))]
            known = self._writers[schema_id] = _Writer(reader, batch)
        return known

    def _read_framed(self, work: _Work, writer: _Writer, rows: Sequence[int]) -> None:
        few = len(rows) <= SMALL_BATCH_ROWS and isinstance(writer.batch, BatchDecoder)
        if writer.batch is None or few:
            self._read_rows(work, rows, writer.rows.read)
            return
        if work.raw is not None:  # then all rows have this writer
            index = np.arange(len(rows), dtype=np.int64)
            decoded = writer.batch.decode(cast("Sequence[bytes]", work.values), work.raw)
        else:
            index = np.asarray(rows, dtype=np.int64)
            decoded = writer.batch.decode([work.values[r] or b"" for r in rows])
        work.parts.append((index[decoded.positions], decoded.columns))
        if decoded.doubtful:
            self._read_rows(work, index[decoded.doubtful].tolist(), writer.rows.read)

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
