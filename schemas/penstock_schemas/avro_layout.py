"""An Avro record laid out as a flat program for the compiled kernels, and the columns it walks.

The program goes through the schema depth first; each step names the slot of its column. What the
kernels do not know (maps, unions of more than null and one type, bytes, decimals, arrays of
anything but floats) is not laid out: such schemas are handled by `avro_batch` or row by row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from penstock_schemas import avro_kernel as kernel
from penstock_schemas.avro_types import AvroType

NUMBERS: Final = {
    "int": kernel.INT,
    "long": kernel.LONG,
    "enum": kernel.ENUM,
    "boolean": kernel.BOOLEAN,
}
FIXED: Final = {"float": kernel.FLOAT, "double": kernel.DOUBLE}
_ITEMS: Final = {"float": kernel.FLOATS, "double": kernel.DOUBLES}
_LOGICAL: Final = frozenset({None, "date", "timestamp-millis", "timestamp-micros"})


def is_compiled(node: AvroType) -> bool:
    """Tell whether a type can be compiled."""
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
        Flat, `avro_kernel.STEP` numbers per step.
    numbers, fixed, valid, bytes
        Columns of int, long, enum, boolean; of float and double; that may be null; of strings and
        arrays.
    """

    def __init__(self, record: AvroType) -> None:
        self.numbers = self.fixed = self.valid = self.bytes = 0
        self._steps: list[list[int]] = []
        self.columns = [self._column(f.type) for f in record.fields]
        self.program: npt.NDArray[np.int64] = np.asarray(self._steps, dtype=np.int64).ravel()

    def _column(self, node: AvroType) -> Column:
        inner = node.optional
        if inner is None:
            return self._value(node)
        step = [kernel.OPTIONAL, self.valid, int(node.branches[1].kind == "null"), 0]
        self.valid += 1
        self._steps.append(step)
        column = self._value(inner)
        column.valid = step[1]
        step[3] = len(self._steps) * kernel.STEP
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
            op = kernel.STRING if node.kind == "string" else _ITEMS[node.item().kind]
        self._steps.append([op, slot, len(node.symbols), 0])
        return Column(node, slot)
