"""The numba kernels: a batch of Avro datums to columns and back, in one pass over the bytes.

`Layout` turns a record's schema into a flat program, depth first, each step with the slot of its
column; `read_rows` and `write_rows` interpret it. They release the GIL and allocate nothing.
`read_rows` accepts exactly what `avro_rows.check_datum` accepts; a refused row leaves nothing in
the columns and is reported, so that a stricter reader can say why.

What has no step here (maps, unions of more than null and one type, bytes, decimals, arrays of
anything but floats) is read and written record by record in `avro_rows`.

References
----------
Avro specification 1.12, Binary Encoding; RFC 3629 for UTF-8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numba
import numpy as np
import numpy.typing as npt

from penstock_schemas.avro_schema import AvroType

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
"""Numbers per step of a program: operation, slot, argument, where to jump if null."""

LONGEST_NUMBER: Final = 10
"""Most bytes of a number."""
BAD: Final = -1
"""Position returned for bytes that are not a value of the type."""
_LONGEST: Final = 63
_INT_LOW: Final = -(2**31)
_INT_HIGH: Final = 2**31 - 1

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]

# Of each first byte of a UTF-8 sequence: how many follow (-1: it starts none), and between what the
# second lies; the narrower ranges rule out overlong forms, surrogates and what is beyond U+10FFFF.
_MORE: Final = np.full(256, -1, np.int8)
_MORE[:0x80], _MORE[0xC2:0xE0], _MORE[0xE0:0xF0], _MORE[0xF0:0xF5] = 0, 1, 2, 3
_SECOND_LOW: Final = np.full(256, 0x80, np.uint8)
_SECOND_LOW[0xE0], _SECOND_LOW[0xF0] = 0xA0, 0x90
_SECOND_HIGH: Final = np.full(256, 0xBF, np.uint8)
_SECOND_HIGH[0xED], _SECOND_HIGH[0xF4] = 0x9F, 0x8F


NUMBERS: Final = {
    "int": INT,
    "long": LONG,
    "enum": ENUM,
    "boolean": BOOLEAN,
}
FIXED: Final = {"float": FLOAT, "double": DOUBLE}
_ITEMS: Final = {"float": FLOATS, "double": DOUBLES}
_LOGICAL: Final = frozenset({None, "date", "timestamp-millis", "timestamp-micros"})


def is_compiled(node: AvroType) -> bool:
    """Return whether the kernels read and write a type."""
    node = node.optional or node
    if node.logical not in _LOGICAL:
        return False
    if node.kind == "record":
        return bool(node.fields) and all(is_compiled(f.type) for f in node.fields)
    if node.kind == "array":
        return node.item().kind in _ITEMS and node.item().logical is None
    return node.kind in NUMBERS or node.kind in FIXED or node.kind == "string"


@dataclass(slots=True)
class Column:
    """A column: where its parts lie in a kernel's tables.

    Parameters
    ----------
    slot
        Row of its values in the table of its kind; -1 for a record.
    valid
        Row in the table of validity; -1 for what is never null.
    """

    node: AvroType
    slot: int = -1
    valid: int = -1
    children: list[Column] = field(default_factory=list)


class Layout:
    """The program of a record, and how many columns of each kind it has.

    Parameters
    ----------
    record
        Its schema, which `is_compiled`.

    Attributes
    ----------
    columns
        One per field.
    program
        Flat, `STEP` numbers per step.
    numbers, fixed, valid, bytes
        Columns of int, long, enum, boolean; of float and double; that may be null; of strings and
        arrays.
    """

    def __init__(self, record: AvroType) -> None:
        self.numbers = self.fixed = self.valid = self.bytes = 0
        self._steps: list[list[int]] = []
        self.columns = [self._column(f.type) for f in record.fields]
        self.program: Longs = np.asarray(self._steps, dtype=np.int64).ravel()

    def _column(self, node: AvroType) -> Column:
        inner = node.optional
        if inner is None:
            return self._value(node)
        step = [OPTIONAL, self.valid, int(node.branches[1].kind == "null"), 0]
        self.valid += 1
        self._steps.append(step)
        column = self._value(inner)
        column.valid = step[1]
        step[3] = len(self._steps) * STEP
        return column

    def _value(self, node: AvroType) -> Column:
        if node.kind == "record":
            return Column(node, children=[self._column(f.type) for f in node.fields])
        if node.kind in NUMBERS:
            slot, self.numbers = self.numbers, self.numbers + 1
            op = NUMBERS[node.kind]
        elif node.kind in FIXED:
            slot, self.fixed = self.fixed, self.fixed + 1
            op = FIXED[node.kind]
        else:
            slot, self.bytes = self.bytes, self.bytes + 1
            op = STRING if node.kind == "string" else _ITEMS[node.item().kind]
        self._steps.append([op, slot, len(node.symbols), 0])
        return Column(node, slot)


@numba.njit(cache=True, nogil=True, _nrt=False)
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


@numba.njit(cache=True, nogil=True, _nrt=False)
def _copy(data: Bytes, at: int, out: Bytes, to: int, size: int) -> np.uint8:
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


@numba.njit(cache=True, nogil=True, _nrt=False)
def _is_utf8(data: Bytes, at: int, end: int) -> bool:
    """Return whether the bytes are well-formed UTF-8: no overlong form, no surrogate."""
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


@numba.njit(cache=True, nogil=True, _nrt=False, inline="always")
def _text(data: Bytes, at: int, end: int, out: Bytes, filled: int) -> tuple[int, int]:
    """Copy a string; return the positions behind it in both, or `BAD`."""
    length, at = _varint(data, at, end)
    if at == BAD or length < 0 or length > end - at:
        return BAD, filled
    is_ascii = _copy(data, at, out, filled, length) < 0x80
    if not is_ascii and not _is_utf8(data, at, at + length):
        return BAD, filled
    return at + length, filled + length


@numba.njit(cache=True, nogil=True, _nrt=False, inline="always")
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
        _copy(data, at, out, filled, size)
        at += size
        filled += size


@numba.njit(cache=True, nogil=True, _nrt=False, inline="always")
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


@numba.njit(cache=True, nogil=True, _nrt=False, inline="always")
def _row(
    data: Bytes,
    at: int,
    end: int,
    row: int,
    rows: int,
    program: Longs,
    numbers: Longs,
    fixed: Bytes,
    valid: Bytes,
    bytes_out: Bytes,
    filled: Longs,
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
            _copy(data, at, fixed, (slot * rows + row) * 8, width)
            at += width
        else:
            numbers[slot * rows + row], at = _number(data, at, end, op, argument)
        if at == BAD:
            return BAD
    return at


@numba.njit(cache=True, nogil=True, _nrt=False)
def read_rows(
    data: Bytes,
    ends: npt.NDArray[np.int32],
    head: int,
    program: Longs,
    numbers: Longs,
    fixed: Bytes,
    valid: Bytes,
    bytes_out: Bytes,
    bytes_ends: npt.NDArray[np.int32],
    good: Bytes,
    filled: Longs,
    before: Longs,
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
        Flat, `STEP` numbers per step, see `Layout`.
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


@numba.njit(cache=True, nogil=True, _nrt=False, inline="always")
def _put_number(value: int, out: Bytes, at: int) -> int:
    """Write a zigzag number; return the position behind it."""
    raw = (np.uint64(value) << np.uint64(1)) ^ np.uint64(value >> 63)
    while raw > np.uint64(0x7F):
        out[np.uint64(at)] = np.uint8(raw & np.uint64(0x7F)) | np.uint8(0x80)
        raw >>= np.uint64(7)
        at += 1
    out[np.uint64(at)] = np.uint8(raw)
    return at + 1


@numba.njit(cache=True, nogil=True, _nrt=False, inline="always")
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
            _copy(data, start, out, at, size)
            at += size
            if op != STRING:
                out[at] = 0  # the block of no items that ends an array
                at += 1
        elif op in (FLOAT, DOUBLE):
            width = 4 if op == FLOAT else 8
            _copy(fixed, (slot * rows + row) * 8, out, at, width)
            at += width
        elif op == BOOLEAN:
            out[at] = np.uint8(numbers[slot * rows + row])
            at += 1
        else:
            at = _put_number(numbers[slot * rows + row], out, at)
    return at


@numba.njit(cache=True, nogil=True, _nrt=False)
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
        Flat, `STEP` numbers per step, see `Layout`.
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
        _copy(head, 0, out, at, len(head))
        at = _put_row(row, rows, program, numbers, fixed, valid, data, ends, out, at + len(head))
        out_ends[row + 1] = at
