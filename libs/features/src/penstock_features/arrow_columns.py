"""Arrow columns to NumPy, with one meaning of missing: NaN."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from penstock_schemas.errors import ConfigError

Floats = npt.NDArray[np.float64]


def numbers(column: pa.Array, name: str) -> Floats:
    """Return a numeric, boolean or timestamp column as float64; null becomes NaN.

    Timestamps become milliseconds since the epoch, UTC.

    Raises
    ------
    ConfigError
        If the column's type is not a number.
    """
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", tz=column.type.tz), safe=False).cast(pa.int64())
    try:
        values: Floats = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as exc:
        raise ConfigError(f"field {name!r}: expected a numeric type, got {column.type}") from exc
    return values


def texts(column: pa.Array) -> pa.Array:
    """Return a string, enum, boolean or integer column as strings; null stays null."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


def times_ms(column: pa.Array) -> npt.NDArray[np.int64]:
    """Return a timestamp column as int64 milliseconds since the epoch; it must hold no null."""
    milliseconds = column.cast(pa.timestamp("ms", tz=column.type.tz), safe=False)
    values: npt.NDArray[np.int64] = milliseconds.cast(pa.int64()).to_numpy()
    return values
