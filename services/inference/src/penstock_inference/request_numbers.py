"""The numbers of a request, checked one by one, as float32."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from penstock_schemas.errors import RecordError, SchemaError, ShapeMismatch

from penstock_inference.tensors import Matrix
from penstock_inference.triton import INPUT

LARGEST: Final = float(np.finfo(np.float32).max)
NUMBERS: Final = frozenset({int, float})
"""A boolean is an int to Python, and a string would be converted silently: exact types only."""


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
    return _numbers(values).reshape(1, width)


def from_binary(raw: bytes, size: Any, count: int) -> Matrix:
    """Return raw little-endian float32, of which ``count`` are expected."""
    if type(size) is not int or size != 4 * count or size != len(raw):
        raise ShapeMismatch(
            "wrong binary data",
            field="inputs[0].parameters.binary_data_size",
            expected=f"{4 * count} bytes",
            got=f"{str(size)[:20]}, with {len(raw)} sent",
        )
    values: Matrix = np.frombuffer(raw, dtype="<f4")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise _not_finite(int(bad[0]), str(values[bad[0]]))
    return values


def from_json(data: Any, rows: int, width: int) -> Matrix:
    """Return JSON numbers as float32: one flat list, or one list per row.

    Raises
    ------
    RecordError
        They are not ``rows`` times ``width`` finite numbers.

    Examples
    --------
    >>> from_json([[1, 2], [3, 4]], 2, 2).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    if not isinstance(data, list):
        raise SchemaError("wrong type", field="data", expected="lists of numbers", got=kind(data))
    if data and isinstance(data[0], list):
        data = _flat(data, width)
    if len(data) != rows * width:
        raise ShapeMismatch(
            "data and shape differ",
            field="inputs[0].data",
            expected=f"{rows * width} numbers",
            got=str(len(data)),
        )
    return _numbers(data)


def _flat(data: list[Any], width: int) -> list[Any]:
    flat: list[Any] = []
    for at, row in enumerate(data):
        if not isinstance(row, list) or (row and isinstance(row[0], list)):
            got = "lists of lists" if isinstance(row, list) else kind(row)
            raise SchemaError(
                "wrong type", field="data", expected="one list of numbers per row", got=got
            )
        if len(row) != width:
            raise ShapeMismatch(
                "data and shape differ",
                field=f"inputs[0].data[{at}]",
                expected=f"{width} numbers",
                got=str(len(row)),
            )
        flat.extend(row)
    return flat


def _numbers(flat: list[Any]) -> Matrix:
    if NUMBERS.issuperset(map(type, flat)):
        try:
            values = np.array(flat, dtype=np.float64)
        except OverflowError:
            values = np.array([np.nan])  # an integer beyond every float: named below
        # The comparison is False for NaN.
        if (np.abs(values) <= LARGEST).all():
            return values.astype(np.float32)
    for at, value in enumerate(flat):
        if type(value) not in NUMBERS or not abs(value) <= LARGEST:
            raise _not_finite(at, str(value)[:20] if type(value) is float else kind(value))
    raise AssertionError("one of the numbers is wrong")  # pragma: no cover


def _not_finite(at: int, got: str) -> SchemaError:
    return SchemaError(
        "wrong value", field=f"{INPUT}[{at}]", expected="a finite 32-bit number", got=got
    )


def wrong_width(expected: int, got: int) -> RecordError:
    """Return the error of a wrong number of features."""
    return ShapeMismatch(
        f"expected {expected} features, got {str(got)[:20]}",
        field=INPUT,
        expected=f"{expected} features",
        got=str(got)[:20],
    )


def kind(value: Any) -> str:
    """Return what a JSON value is, in a word."""
    return "nothing" if value is None else type(value).__name__
