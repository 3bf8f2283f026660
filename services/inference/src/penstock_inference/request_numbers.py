"""The numbers of a request, checked one by one, as float32."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from penstock_schemas.errors import RecordError, SchemaError, ShapeMismatch

from penstock_inference.tensors import Matrix
from penstock_inference.triton import INPUT

LARGEST: Final = float(np.finfo(np.float32).max)


def row_of_numbers(values: Any, width: int) -> Matrix:
    """Return a JSON list of features as a matrix of one row.

    Raises
    ------
    RecordError
        It is not a list of ``width`` finite numbers.

    Examples
    --------
    >>> row_of_numbers([1, 2.5], 2).tolist()
    [[1.0, 2.5]]
    """
    if not isinstance(values, list):
        raise SchemaError("wrong type", field=INPUT, expected="a list of numbers", got=kind(values))
    if len(values) != width:
        raise wrong_width(width, len(values))
    return numbers(values).reshape(1, width)


def from_binary(raw: bytes, size: Any, count: int) -> Matrix:
    """Return raw little-endian float32, of which ``count`` are expected."""
    if size != 4 * count or size != len(raw):
        raise ShapeMismatch(
            "wrong binary data",
            field="inputs[0].parameters.binary_data_size",
            expected=f"{4 * count} bytes",
            got=f"{size}, with {len(raw)} sent",
        )
    values: Matrix = np.frombuffer(raw, dtype="<f4")
    return _finite(values)


def numbers(data: Any) -> Matrix:
    """Return JSON numbers, flat or nested, as float32."""
    flat: list[Any] = []
    _flatten(data, flat, depth=0)
    for at, value in enumerate(flat):
        # A boolean is an int to Python, and a string would be converted silently; the comparison
        # is False for NaN, and takes an int of any size.
        if type(value) not in (int, float) or not abs(value) <= LARGEST:
            raise SchemaError(
                "wrong value",
                field=f"{INPUT}[{at}]",
                expected="a finite 32-bit number",
                got=str(value)[:20] if type(value) is float else kind(value),
            )
    return np.array(flat, dtype=np.float32)


def _flatten(data: Any, into: list[Any], depth: int) -> None:
    if not isinstance(data, list) or depth > 1:
        raise SchemaError("wrong type", field="data", expected="lists of numbers", got=kind(data))
    if data and isinstance(data[0], list):
        for part in data:
            _flatten(part, into, depth + 1)
    else:
        into.extend(data)


def _finite(values: Matrix) -> Matrix:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise SchemaError(
            "wrong value",
            field=f"{INPUT}[{bad[0]}]",
            expected="a finite 32-bit number",
            got=str(values[bad[0]]),
        )
    return values


def wrong_width(expected: int, got: int) -> RecordError:
    """Return the error of a wrong number of features."""
    return ShapeMismatch(
        f"expected {expected} features, got {got}",
        field=INPUT,
        expected=f"{expected} features",
        got=str(got),
    )


def kind(value: Any) -> str:
    """Return what a JSON value is, in a word."""
    return "nothing" if value is None else type(value).__name__
