"""The compiled walk over a batch of Avro datums: one pass, straight into columns.

It judges as `avro_wire.check_datum` does and never allocates: a row that is not exactly one value
of its schema leaves nothing behind and is reported as bad.

References
----------
Avro specification 1.12, Binary Encoding; RFC 3629 for UTF-8.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np
import numpy.typing as npt

INT: Final = 0
LONG: Final = 1
ENUM: Final = 2
BOOLEAN: Final = 3
FLOAT: Final = 4
DOUBLE: Final = 5
STRING: Final = 6
FLOATS: Final = 7
DOUBLES: Final = 8
OPTIONAL: Final = 9

STEP: Final = 4
"""Numbers per step of a program: what, slot, argument, where to go on if null."""

BAD: Final = -1
"""Position returned for bytes that make no sense."""
_LONGEST: Final = 63
_INT_LOW: Final = -(2**31)
_INT_HIGH: Final = 2**31 - 1

Bytes = npt.NDArray[np.uint8]

# Of each first byte of a UTF-8 sequence: how many follow (-1: it starts none), and between what the
# second lies; the narrower ranges rule out overlong forms, surrogates and what is beyond U+10FFFF.
_MORE: Final = np.full(256, -1, np.int8)
_MORE[:0x80], _MORE[0xC2:0xE0], _MORE[0xE0:0xF0], _MORE[0xF0:0xF5] = 0, 1, 2, 3
_SECOND_LOW: Final = np.full(256, 0x80, np.uint8)
_SECOND_LOW[0xE0], _SECOND_LOW[0xF0] = 0xA0, 0x90
_SECOND_HIGH: Final = np.full(256, 0xBF, np.uint8)
_SECOND_HIGH[0xED], _SECOND_HIGH[0xF4] = 0x9F, 0x8F


@numba.njit(cache=True, _nrt=False)
def _varint(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """Return the zigzag number at ``at`` and the position behind it, or `BAD`."""
    raw = np.uint64(0)
    shift = np.uint64(0)
    while at < end:
        byte = np.uint64(data[at])
        at += 1
        if shift == _LONGEST and byte > 1:
            return 0, BAD
        raw |= (byte & np.uint64(0x7F)) << shift
        if byte < 0x80:
            half = np.int64(raw >> np.uint64(1))
            return (~half if raw & np.uint64(1) else half), at  # type: ignore[return-value] # int64
        shift += np.uint64(7)
    return 0, BAD


@numba.njit(cache=True, _nrt=False)
def copy(data: Bytes, at: int, out: Bytes, to: int, size: int) -> np.uint8:
    """Copy bytes; return all their bits or-ed together.

    Unsigned indices: signed ones may count from the end, and checking that stops vectorisation.
    """
    source, target = np.uint64(at), np.uint64(to)
    bits = np.uint8(0)
    for i in range(np.uint64(size)):
        byte = data[source + i]
        out[target + i] = byte
        bits |= byte
    return bits


@numba.njit(cache=True, _nrt=False)
def _is_utf8(data: Bytes, at: int, end: int) -> bool:
    """Tell whether the bytes are well-formed UTF-8: no overlong form, no surrogate."""
    while at < end:
        first = data[at]
        more = _MORE[first]
        at += 1
        if more < 0 or end - at < more:
            return False
        if more and not _SECOND_LOW[first] <= data[at] <= _SECOND_HIGH[first]:
            return False
        for i in range(1, more):
            if data[at + i] & 0xC0 != 0x80:
                return False
        at += more
    return True


@numba.njit(cache=True, _nrt=False, inline="always")
def _text(data: Bytes, at: int, end: int, out: Bytes, filled: int) -> tuple[int, int]:
    """Copy a string; return the positions behind it in both, or `BAD`."""
    length, at = _varint(data, at, end)
    if at == BAD or length < 0 or length > end - at:
        return BAD, filled
    is_ascii = copy(data, at, out, filled, length) < 0x80
    if not is_ascii and not _is_utf8(data, at, at + length):
        return BAD, filled
    return at + length, filled + length


@numba.njit(cache=True, _nrt=False, inline="always")
def _items(data: Bytes, at: int, end: int, width: int, out: Bytes, filled: int) -> tuple[int, int]:
    """Copy an array of items of ``width`` bytes; return the positions behind it, or `BAD`."""
    while True:
        count, at = _varint(data, at, end)
        if at == BAD:
            return BAD, filled
        if count == 0:
            return at, filled
        declared = -1
        if count < 0:
            declared, at = _varint(data, at, end)
            if at == BAD or declared < 0:
                return BAD, filled
            count = -count
        if count < 0 or count > (end - at) // width or declared not in (-1, count * width):
            return BAD, filled
        size = count * width
        copy(data, at, out, filled, size)
        at += size
        filled += size


@numba.njit(cache=True, _nrt=False, inline="always")
def _number(data: Bytes, at: int, end: int, op: int, limit: int) -> tuple[int, int]:
    """Return a number that fits its kind and the position behind it, or `BAD`."""
    if op == BOOLEAN:
        if at >= end or data[at] > 1:
            return 0, BAD
        return np.int64(data[at]), at + 1  # type: ignore[return-value] # int64
    value, at = _varint(data, at, end)
    if op == INT and not _INT_LOW <= value <= _INT_HIGH:
        return 0, BAD
    if op == ENUM and not 0 <= value < limit:
        return 0, BAD
    return value, at


@numba.njit(cache=True, _nrt=False, inline="always")
def _row(
    data: Bytes,
    at: int,
    end: int,
    row: int,
    rows: int,
    program: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
    fixed: Bytes,
    valid: Bytes,
    bytes_out: Bytes,
    filled: npt.NDArray[np.int64],
) -> int:
    """Read one datum into row ``row`` of the columns; return the position behind it, or `BAD`."""
    step = 0
    while step < len(program):
        op, slot, argument = program[step], program[step + 1], program[step + 2]
        jump = program[step + 3]
        step += STEP
        if op == OPTIONAL:
            branch, at = _varint(data, at, end)
            if at == BAD or not 0 <= branch <= 1:
                return BAD
            valid[slot * rows + row] = branch != argument
            if branch == argument:
                step = jump
        elif op == STRING:
            at, filled[slot] = _text(data, at, end, bytes_out, filled[slot])
        elif op in (FLOATS, DOUBLES):
            width = 4 if op == FLOATS else 8
            at, filled[slot] = _items(data, at, end, width, bytes_out, filled[slot])
        elif op in (FLOAT, DOUBLE):
            width = 4 if op == FLOAT else 8
            if end - at < width:
                return BAD
            copy(data, at, fixed, (slot * rows + row) * 8, width)
            at += width
        else:
            numbers[slot * rows + row], at = _number(data, at, end, op, argument)
        if at == BAD:
            return BAD
    return at


@numba.njit(cache=True, _nrt=False)
def read_rows(
    data: Bytes,
    ends: npt.NDArray[np.int32],
    head: int,
    program: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.int64],
    fixed: Bytes,
    valid: Bytes,
    bytes_out: Bytes,
    bytes_ends: npt.NDArray[np.int32],
    good: Bytes,
    filled: npt.NDArray[np.int64],
    before: npt.NDArray[np.int64],
) -> int:
    """Read datums one behind the other into columns; return how many rows are good.

    Good rows follow one another in the columns; the others leave nothing there.

    Parameters
    ----------
    data, ends
        All values, and where each ends; shape (n + 1,), the first entry is where the first begins.
    head
        Bytes before each datum.
    program
        Flat, `STEP` numbers per step, see `avro_layout`.
    numbers
        Shape (slots, n), int64: int, long, enum index, boolean.
    fixed
        Shape (slots, 8 n): float and double, eight bytes apart.
    valid
        Shape (slots, n), ones; 0 is written where an optional value is null.
    bytes_out, bytes_ends
        Shapes (slots, capacity) and (slots, n + 1): what strings and arrays hold.
    good
        Shape (n,): 1 is written for each good row.
    """
    row = 0
    rows = len(ends) - 1
    slots = len(bytes_ends) // (rows + 1)
    capacity = len(bytes_out) // max(slots, 1)
    for slot in range(slots):
        filled[slot] = before[slot] = slot * capacity
    for i in range(rows):
        start, end = np.int64(ends[i]) + head, np.int64(ends[i + 1])
        at = BAD
        if start <= end:
            at = _row(
                data, start, end, row, rows, program, numbers, fixed, valid, bytes_out, filled
            )
        if at == end:
            good[i] = 1
            row += 1
            for slot in range(len(filled)):
                before[slot] = filled[slot]
                bytes_ends[slot * (rows + 1) + row] = filled[slot] - slot * capacity
        else:
            for slot in range(len(filled)):
                filled[slot] = before[slot]
            for slot in range(len(valid) // rows):
                valid[slot * rows + row] = 1
    return row
