"""An Avro schema as a small tree with every named type resolved in place.

The codec, the compatibility checker and the JSON events all walk this tree, so that what a schema
means is decided once. `avro_parser` makes it from text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

MISSING: Final = object()
"""The default of a field that has none."""


class InvalidSchema(ValueError):
    """The text is not an Avro schema, or one that Penstock refuses; the message says why."""


@dataclass(frozen=True, slots=True)
class AvroField:
    """A field of a record. Two are equal if their bytes are read alike."""

    name: str
    type: AvroType
    default: Any = field(default=MISSING, compare=False)
    aliases: tuple[str, ...] = field(default=(), compare=False)

    @property
    def has_default(self) -> bool:
        """Whether a reader may fill it in."""
        return self.default is not MISSING


@dataclass(frozen=True, slots=True)
class AvroType:
    """A type. Two are equal if the same bytes mean the same values under the same field names.

    Parameters
    ----------
    kind
        An Avro primitive, or record, enum, array, map, fixed, union.
    logical
        Logical type, where it is one that Avro defines for this kind.
    name, aliases, default
        Unqualified names of a named type; default symbol of an enum. Not compared.
    """

    kind: str
    logical: str | None = None
    name: str = field(default="", compare=False)
    aliases: tuple[str, ...] = field(default=(), compare=False)
    fields: tuple[AvroField, ...] = ()
    items: AvroType | None = None
    branches: tuple[AvroType, ...] = ()
    symbols: tuple[str, ...] = ()
    size: int = 0
    precision: int = 0
    scale: int = 0
    default: str | None = field(default=None, compare=False)

    @property
    def optional(self) -> AvroType | None:
        """The other branch, if this is a union of null and exactly one type."""
        if self.kind != "union" or len(self.branches) != 2:
            return None
        others = [b for b in self.branches if b.kind != "null"]
        return others[0] if len(others) == 1 else None

    def item(self) -> AvroType:
        """Return the type of an array's items or of a map's values."""
        if self.items is None:
            raise InvalidSchema(f"{self.kind} has no items")
        return self.items

    def describe(self) -> str:
        """Return a short text for messages, such as ``long (timestamp-millis)``.

        Examples
        --------
        >>> AvroType("array", items=AvroType("float")).describe()
        'array of float'
        """
        if self.kind == "union":
            return " or ".join(b.describe() for b in self.branches)
        if self.kind in ("array", "map"):
            return f"{self.kind} of {self.item().describe()}"
        if self.kind == "enum":
            return f"one of {', '.join(self.symbols)}"
        return f"{self.kind} ({self.logical})" if self.logical else self.kind
