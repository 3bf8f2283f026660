"""Confluent framing: ``0x00``, the schema id as 4 bytes big-endian, then the Avro datum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from penstock_schemas.errors import DecodeError

MAGIC: Final = 0
PREFIX_BYTES: Final = 5


def prefix(schema_id: int) -> bytes:
    """Return the five bytes before a datum.

    Examples
    --------
    >>> prefix(258).hex()
    '0000000102'
    """
    return b"\x00" + schema_id.to_bytes(4, "big")


def schema_id_of(value: bytes) -> int | None:
    """Return the schema id of a framed value; None where no prefix is readable."""
    if len(value) < PREFIX_BYTES or value[0] != MAGIC:
        return None
    return int.from_bytes(value[1:PREFIX_BYTES], "big")


def require_schema_id(value: bytes) -> int:
    """Return the schema id of a framed value.

    Raises
    ------
    DecodeError
        If the value is empty, shorter than the prefix or starts with another byte.
    """
    if not value:
        raise DecodeError("empty value", expected="5-byte prefix", got="0 bytes")
    if value[0] != MAGIC:
        raise DecodeError("wrong magic byte", expected="0x00", got=f"0x{value[0]:02x}")
    if len(value) < PREFIX_BYTES:
        raise DecodeError("truncated prefix", expected="5 bytes", got=f"{len(value)}")
    return int.from_bytes(value[1:PREFIX_BYTES], "big")


def framed_alike(values: Sequence[bytes | None], max_bytes: int | None) -> pa.BinaryArray | None:
    """Return values as one array if all have the same prefix and none is too large; else None."""
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
    return raw if alike else None
