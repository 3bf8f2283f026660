"""The compiled walk over columns: one pass, straight into framed Avro datums one behind the other.

The counterpart of `avro_kernel`, by the same programs.

References
----------
Avro specification 1.12, Binary Encoding.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
import numpy.typing as npt

from penstock_schemas.avro_kernel import (
    BOOLEAN,
    DOUBLE,
    DOUBLES,
    FLOAT,
    FLOATS,
    OPTIONAL,
    STEP,
    STRING,
    Bytes,
    copy,
)

LONGEST_NUMBER: Final = 10
"""Most bytes of a number."""

Longs = npt.NDArray[np.int64]


@numba.njit(cache=True, _nrt=False, inline="always")
def _put_number(value: int, out: Bytes, at: int) -> int:
    """Write a zigzag number; return the position behind it."""
    raw = (np.uint64(value) << np.uint64(1)) ^ np.uint64(value >> 63)
    while raw > np.uint64(0x7F):
        out[np.uint64(at)] = np.uint8(raw & np.uint64(0x7F)) | np.uint8(0x80)
        raw >>= np.uint64(7)
        at += 1
    out[np.uint64(at)] = np.uint8(raw)
    return at + 1


@numba.njit(cache=True, _nrt=False, inline="always")
def _put_row(
    row: int,
    rows: int,
    program: Longs,
    numbers: Longs,
    fixed: Bytes,
    valid: Bytes,
    data: Bytes,
    ends: Longs,
    out: Bytes,
    at: int,
) -> int:
    """Write row ``row`` of the columns; return the position behind it."""
    step = 0
    while step < len(program):
        op, slot, argument = program[step], program[step + 1], program[step + 2]
        jump = program[step + 3]
        step += STEP
        if op == OPTIONAL:
            is_null = valid[slot * rows + row] == 0
            at = _put_number(argument if is_null else 1 - argument, out, at)
            if is_null:
                step = jump
        elif op in (STRING, FLOATS, DOUBLES):
            start = ends[slot * (rows + 1) + row]
            size = ends[slot * (rows + 1) + row + 1] - start
            width = 1 if op == STRING else 4 if op == FLOATS else 8
            if op == STRING or size > 0:
                at = _put_number(size // width, out, at)
            copy(data, start, out, at, size)
            at += size
            if op != STRING:
                out[at] = 0  # the block of no items that ends an array
                at += 1
        elif op in (FLOAT, DOUBLE):
            width = 4 if op == FLOAT else 8
            copy(fixed, (slot * rows + row) * 8, out, at, width)
            at += width
        elif op == BOOLEAN:
            out[at] = np.uint8(numbers[slot * rows + row])
            at += 1
        else:
            at = _put_number(numbers[slot * rows + row], out, at)
    return at


@numba.njit(cache=True, _nrt=False)
def write_rows(
    head: Bytes,
    program: Longs,
    numbers: Longs,
    fixed: Bytes,
    valid: Bytes,
    data: Bytes,
    ends: Longs,
    out: Bytes,
    out_ends: Longs,
) -> None:
    """Write every row as ``head`` and its datum, one behind the other.

    Parameters
    ----------
    program
        Flat, `avro_kernel.STEP` numbers per step, see `avro_layout`.
    numbers
        Shape (slots, n): int, long, enum index, boolean.
    fixed
        Shape (slots, 8 n): float and double, eight bytes apart.
    valid
        Shape (slots, n): 0 where an optional value is null.
    data, ends
        What all strings and arrays hold, and shape (slots, n + 1) where each lies in it, in bytes.
    out
        Long enough for everything.
    out_ends
        Shape (n + 1,): where each value begins in ``out``, and where the last one ends.
    """
    rows = len(out_ends) - 1
    at = 0
    out_ends[0] = 0
    for row in range(rows):
        copy(head, 0, out, at, len(head))
        at = _put_row(row, rows, program, numbers, fixed, valid, data, ends, out, at + len(head))
        out_ends[row + 1] = at
