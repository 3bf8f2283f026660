"""An Avro schema as a small tree with every named type resolved in place, and its parser.

The codec, the compatibility check and the JSON events all walk this tree, so that what a schema
means is decided once. Schemas that could exhaust the reader are refused here: recursive ones,
arrays of items that take no bytes, and trees of more than `MAX_NODES` types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

MISSING: Final = object()
"""The default of a field that has none."""
MAX_NODES: Final = 10_000
MAX_DEPTH: Final = 64
PRIMITIVES: Final = frozenset(
    {"null", "boolean", "int", "long", "float", "double", "string", "bytes"}
)
_LOGICAL: Final = {
    "date": ("int",),
    "time-millis": ("int",),
    "time-micros": ("long",),
    "timestamp-millis": ("long",),
    "timestamp-micros": ("long",),
    "local-timestamp-millis": ("long",),
    "local-timestamp-micros": ("long",),
    "decimal": ("bytes", "fixed"),
    "uuid": ("string",),
}


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


def parse_type(text: str) -> AvroType:
    """Parse an Avro schema.

    Raises
    ------
    InvalidSchema
        If it is not one, or one that is refused (see the module).
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidSchema(f"not JSON: {exc}") from exc
    return _Parser().parse(document, "", 0)


def parse_record(text: str) -> AvroType:
    """Parse an Avro schema whose top level is a record with at least one field."""
    parsed = parse_type(text)
    if parsed.kind != "record" or not parsed.fields:
        raise InvalidSchema("the top level must be a record with at least one field")
    return parsed


def without_logical_types(text: str, keep: frozenset[str]) -> Any:
    """Return the schema's JSON with every logicalType dropped that is not in ``keep``."""

    def strip(node: Any) -> Any:
        if isinstance(node, list):
            return [strip(n) for n in node]
        if isinstance(node, dict):
            return {
                k: v if k == "default" else strip(v)
                for k, v in node.items()
                if k != "logicalType" or v in keep
            }
        return node

    return strip(json.loads(text))


class _Parser:
    def __init__(self) -> None:
        self._named: dict[str, tuple[Mapping[str, Any], str]] = {}
        self._open: set[str] = set()
        self._nodes = 0

    def parse(self, node: Any, namespace: str, depth: int) -> AvroType:
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise InvalidSchema(f"more than {MAX_NODES} types or {MAX_DEPTH} levels")
        if isinstance(node, str):
            return self._reference(node, namespace, depth)
        if isinstance(node, list):
            return self._union(node, namespace, depth)
        if not isinstance(node, dict) or "type" not in node:
            raise InvalidSchema(f"not a type: {str(node)[:80]}")
        return self._object(node, namespace, depth)

    def _object(self, node: Mapping[str, Any], namespace: str, depth: int) -> AvroType:
        kind = node["type"]
        if not isinstance(kind, str):
            return self.parse(kind, namespace, depth + 1)
        if kind in ("array", "map"):
            inner = self.parse(
                _required(node, "items" if kind == "array" else "values"), namespace, depth + 1
            )
            if kind == "array" and _takes_no_bytes(inner):
                raise InvalidSchema("array items that take no bytes")
            return AvroType(kind, items=inner)
        if kind in ("record", "error", "enum", "fixed"):
            full, inner_namespace = _full_name(node, namespace)
            self._named[full] = (node, inner_namespace)
            return self._define(full, depth)
        if kind not in PRIMITIVES:
            return self._reference(kind, namespace, depth)
        return _with_logical(AvroType(kind), node)

    def _reference(self, name: str, namespace: str, depth: int) -> AvroType:
        if name in PRIMITIVES:
            return AvroType(name)
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        if full not in self._named:
            full = name
        if full not in self._named:
            raise InvalidSchema(f"unknown type {name!r}")
        return self._define(full, depth)

    def _define(self, full: str, depth: int) -> AvroType:
        if full in self._open:
            raise InvalidSchema(f"type {full!r} contains itself")
        node, namespace = self._named[full]
        name = full.rpartition(".")[2]
        if node["type"] == "enum":
            symbols = tuple(str(s) for s in _required(node, "symbols"))
            default = node.get("default")
            return AvroType("enum", None, name, _aliases(node), symbols=symbols, default=default)
        if node["type"] == "fixed":
            size = _required(node, "size")
            if not isinstance(size, int) or size < 0:
                raise InvalidSchema(f"size of fixed {full!r} is not a number of bytes")
            return _with_logical(AvroType("fixed", None, name, _aliases(node), size=size), node)
        self._open.add(full)
        fields = tuple(self._field(f, namespace, depth) for f in _required(node, "fields"))
        self._open.remove(full)
        if len({f.name for f in fields}) != len(fields):
            raise InvalidSchema(f"record {full!r} has two fields of one name")
        return AvroType("record", None, name, _aliases(node), fields)

    def _field(self, node: Any, namespace: str, depth: int) -> AvroField:
        if not isinstance(node, dict) or not isinstance(node.get("name"), str):
            raise InvalidSchema(f"not a field: {str(node)[:80]}")
        kind = self.parse(_required(node, "type"), namespace, depth + 1)
        aliases = tuple(str(a) for a in node.get("aliases", ()))
        return AvroField(node["name"], kind, node.get("default", MISSING), aliases)

    def _union(self, node: list[Any], namespace: str, depth: int) -> AvroType:
        branches = tuple(self.parse(b, namespace, depth + 1) for b in node)
        if not branches or any(b.kind == "union" for b in branches):
            raise InvalidSchema("a union is empty or holds a union")
        return AvroType("union", branches=branches)


def _required(node: Mapping[str, Any], key: str) -> Any:
    if key not in node:
        raise InvalidSchema(f"{node.get('name', node.get('type'))!r} has no {key!r}")
    return node[key]


def _full_name(node: Mapping[str, Any], namespace: str) -> tuple[str, str]:
    name = str(_required(node, "name"))
    if "." in name:
        return name, name.rpartition(".")[0]
    inner = str(node.get("namespace") or namespace)
    return (f"{inner}.{name}" if inner else name), inner


def _with_logical(base: AvroType, node: Mapping[str, Any]) -> AvroType:
    logical = node.get("logicalType")
    if base.kind not in _LOGICAL.get(str(logical), ()):
        return base  # the specification: an unknown logical type is ignored
    if logical != "decimal":
        return replace(base, logical=str(logical))
    precision, scale = node.get("precision"), node.get("scale", 0)
    if not isinstance(precision, int) or not isinstance(scale, int) or not 0 <= scale <= precision:
        raise InvalidSchema("decimal without a valid precision and scale")
    return replace(base, logical="decimal", precision=precision, scale=scale)


def _aliases(node: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(alias).rpartition(".")[2] for alias in node.get("aliases") or ())


def _takes_no_bytes(node: AvroType) -> bool:
    if node.kind == "record":
        return all(_takes_no_bytes(f.type) for f in node.fields)
    return node.kind == "null" or (node.kind == "fixed" and node.size == 0)
