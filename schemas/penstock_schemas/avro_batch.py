"""Whole batches of Avro in Rust (pyruhvro), and the checks that it leaves to its caller.

It accepts trailing bytes and cuts overlong numbers silently, and it panics on types it does not
know. So: types are decided once by `is_supported`, and a batch counts as read only if encoding it
again gives back its very bytes; any other row is doubtful and goes to a stricter reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyruhvro

from penstock_schemas.avro_columns import holds_map, repeats_key
from penstock_schemas.avro_types import AvroType
from penstock_schemas.framing import PREFIX_BYTES

_LOGICAL: Final = frozenset({None, "date", "timestamp-millis", "timestamp-micros"})
_KINDS: Final = frozenset({"boolean", "int", "long", "float", "double", "string", "enum"})
_SPLIT: Final = 8
_LEAF_ROWS: Final = 8
"""Measured: below this the fixed cost of a call is more than reading the rows one by one."""
_LARGEST_BYTES: Final = 1 << 30
"""Arrow's offsets are 32 bits; larger batches are narrowed down."""


def is_supported(node: AvroType) -> bool:
    """Tell whether the batch decoder reads and writes this type faithfully."""
    node = node.optional or node
    if node.logical not in _LOGICAL:
        return False
    if node.kind == "record":
        return bool(node.fields) and all(is_supported(f.type) for f in node.fields)
    if node.kind in ("array", "map"):
        return is_supported(node.item())
    return node.kind in _KINDS


def batch_schema(schema_text: str) -> pa.Schema:
    """Return the Arrow schema of the columns of a schema that `is_supported`."""
    return pyruhvro.avro_to_arrow_schema(schema_text)


@dataclass(frozen=True, slots=True)
class BatchColumns:
    """What was read of a batch.

    Parameters
    ----------
    positions
        Shape (len(columns),), int64, ascending: positions of the rows in the columns.
    doubtful
        The other positions, for a stricter reader; most of them are bad.
    """

    columns: pa.RecordBatch
    positions: npt.NDArray[np.int64]
    doubtful: list[int]


class BatchDecoder:
    """Decoder of framed values of one schema, which `is_supported`."""

    def __init__(self, schema_text: str) -> None:
        self._text = schema_text
        self.schema: Final = batch_schema(schema_text)
        self._maps = [i for i, field in enumerate(self.schema) if holds_map(field.type)]

    def decode(self, values: Sequence[bytes], raw: pa.BinaryArray | None = None) -> BatchColumns:
        """Decode what can be decoded; never raises for what the values hold.

        Parameters
        ----------
        values
            Framed; the prefix is cut off unseen.
        raw
            Not needed here: Rust takes a list.
        """
        payloads = [value[PREFIX_BYTES:] for value in values]
        positions = np.arange(len(payloads), dtype=np.int64)
        doubtful: list[int] = []
        columns = self._columns(payloads)
        if columns is None:
            self._find_doubtful(payloads, 0, doubtful)
            positions = np.delete(positions, doubtful)
            payloads = [payloads[i] for i in positions.tolist()]
            columns = self._columns(payloads)
        if columns is None:  # more than one batch may hold, or the decoder contradicts itself
            doubtful = sorted([*doubtful, *positions.tolist()])
            return BatchColumns(self._empty(), positions[:0], doubtful)
        differs = self._differs(columns, payloads)
        if differs is not None:
            doubtful = sorted([*doubtful, *positions[differs].tolist()])
            positions = positions[~differs]
            columns = columns.filter(pa.array(~differs))
        return BatchColumns(columns, positions, doubtful)

    def _find_doubtful(self, payloads: list[bytes], first: int, doubtful: list[int]) -> None:
        """Narrow a failing batch down to groups of `_LEAF_ROWS` at most."""
        if len(payloads) <= _LEAF_ROWS:
            doubtful.extend(range(first, first + len(payloads)))
            return
        step = -(-len(payloads) // _SPLIT)
        for start in range(0, len(payloads), step):
            part = payloads[start : start + step]
            if self._columns(part) is None:
                self._find_doubtful(part, first + start, doubtful)

    def _columns(self, payloads: list[bytes]) -> pa.RecordBatch | None:
        if sum(map(len, payloads)) > _LARGEST_BYTES:
            return None
        try:
            columns = pyruhvro.deserialize_array(payloads, self._text)
            columns.validate(full=True)  # invalid UTF-8 shows only here
        except ValueError:  # ArrowInvalid is one
            return None
        return None if any(repeats_key(columns.column(i)) for i in self._maps) else columns

    def _empty(self) -> pa.RecordBatch:
        return pa.RecordBatch.from_pylist([], schema=self.schema)

    def _differs(
        self, columns: pa.RecordBatch, payloads: list[bytes]
    ) -> npt.NDArray[np.bool_] | None:
        """Return which rows do not encode to the bytes they came from; None if all do."""
        again = _binary(columns, self._text)
        if len(again) == 1 and again[0].equals(pa.array(payloads, type=pa.binary())):
            return None
        pairs = zip((v for array in again for v in array.to_pylist()), payloads, strict=True)
        return np.fromiter((a != b for a, b in pairs), np.bool_, len(payloads))


def serialize(columns: pa.RecordBatch, schema_text: str, head: bytes) -> list[bytes]:
    """Return ``head`` + datum per row; the columns must fit the schema, which `is_supported`.

    Raises
    ------
    ValueError
        If a value does not fit, such as an unknown enum symbol.
    """
    return [head + datum for array in _binary(columns, schema_text) for datum in array.to_pylist()]


def _binary(columns: pa.RecordBatch, schema_text: str) -> list[pa.BinaryArray]:
    if not columns.num_rows:
        return []
    arrays: list[pa.BinaryArray] = pyruhvro.serialize_record_batch(columns, schema_text, 1)
    return arrays
