"""How an Avro type reads from JSON: the msgspec type, and the way from its values to a row's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec

from penstock_schemas.avro_types import AvroField, AvroType, InvalidSchema

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EPOCH_DAY: Final = _EPOCH.date().toordinal()
_FLOAT32_MAX: Final = 3.4028234663852886e38
_INT: Final = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_LONG: Final = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_MOMENT: Final = Annotated[dt.datetime, msgspec.Meta(tz=True)]
_SIMPLE: Final[Mapping[str, Any]] = {
    "null": None,
    "boolean": bool,
    "int": _INT,
    "long": _LONG,
    "float": Annotated[float, msgspec.Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)],
    "double": float,
    "string": str,
    "bytes": bytes,
}
_LOGICAL: Final[Mapping[str, Any]] = {
    "date": _INT | dt.date,
    "time-millis": _INT | dt.time,
    "time-micros": _LONG | dt.time,
    "timestamp-millis": _LONG | _MOMENT,
    "timestamp-micros": _LONG | _MOMENT,
    "local-timestamp-millis": _LONG | dt.datetime,
    "local-timestamp-micros": _LONG | dt.datetime,
    "decimal": Decimal,
    "uuid": str,
}

Convert = Callable[[Any], Any]


def json_type(node: AvroType) -> Any:
    """Return the msgspec type of an Avro type."""
    inner = node.optional
    if inner is not None:
        return json_type(inner) | None
    if node.logical is not None:
        return _LOGICAL[node.logical]
    if node.kind in _SIMPLE:
        return _SIMPLE[node.kind]
    if node.kind == "fixed":
        return Annotated[bytes, msgspec.Meta(min_length=node.size, max_length=node.size)]
    if node.kind == "enum":
        return Literal[node.symbols]
    if node.kind == "array":
        return list[json_type(node.item())]  # type: ignore[misc] # a type made at run time
    if node.kind == "map":
        return dict[str, json_type(node.item())]  # type: ignore[misc] # a type made at run time
    if node.kind == "record":
        return _struct(node)
    raise InvalidSchema(f"no JSON form for {node.describe()}: use null and one type")


def _struct(node: AvroType) -> type[msgspec.Struct]:
    # Attributes are f0, f1, …: an Avro field may be called like a Python keyword.
    fields: list[Any] = []
    for i, member in enumerate(node.fields):
        entry = (f"f{i}", json_type(member.type))
        fields.append((*entry, msgspec.UNSET) if member.has_default else entry)
    names = {f"f{i}": member.name for i, member in enumerate(node.fields)}
    return msgspec.defstruct(node.name or "Event", fields, rename=names, kw_only=True)


def row_converter(node: AvroType) -> Convert:
    """Return what turns a decoded struct of a record into a row, defaults filled in."""
    plan = [
        (f"f{i}", f.name, _converter(f.type), _default(f) if f.has_default else None)
        for i, f in enumerate(node.fields)
    ]

    def convert(decoded: Any) -> dict[str, Any]:
        row = {}
        for attribute, name, inner, default in plan:
            value = getattr(decoded, attribute)
            if value is msgspec.UNSET:
                value = default
            elif inner is not None and value is not None:
                value = inner(value)
            row[name] = value
        return row

    return convert


def _converter(node: AvroType) -> Convert | None:
    """Return what turns a decoded value into a row's value; None where they are the same."""
    node = node.optional or node
    if node.kind == "record":
        return row_converter(node)
    if node.logical in _LOGICAL:
        return _TO_NUMBER.get(str(node.logical))
    if node.kind in ("array", "map"):
        inner = _converter(node.item())
        if inner is None:
            return None
        if node.kind == "array":
            return lambda values: [None if v is None else inner(v) for v in values]
        return lambda values: {k: None if v is None else inner(v) for k, v in values.items()}
    return None


def _moment_to(unit: dt.timedelta) -> Convert:
    def convert(value: Any) -> Any:
        if isinstance(value, int):
            return value
        moment = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
        return (moment - _EPOCH) // unit

    return convert


def _clock_to(unit: dt.timedelta) -> Convert:
    def convert(value: Any) -> Any:
        if isinstance(value, int):
            return value
        since = dt.datetime.combine(_EPOCH.date(), value.replace(tzinfo=None), dt.UTC) - _EPOCH
        return since // unit

    return convert


_MILLI, _MICRO = dt.timedelta(milliseconds=1), dt.timedelta(microseconds=1)
_TO_NUMBER: Final[Mapping[str, Convert]] = {
    "date": lambda v: v if isinstance(v, int) else v.toordinal() - _EPOCH_DAY,
    "time-millis": _clock_to(_MILLI),
    "time-micros": _clock_to(_MICRO),
    "timestamp-millis": _moment_to(_MILLI),
    "timestamp-micros": _moment_to(_MICRO),
    "local-timestamp-millis": _moment_to(_MILLI),
    "local-timestamp-micros": _moment_to(_MICRO),
}


def _default(member: AvroField) -> Any:
    try:
        return _row_value(member.type, member.default)
    except (TypeError, ValueError, KeyError, AttributeError) as exc:
        raise InvalidSchema(f"default of field {member.name!r} is not of its type") from exc


def _row_value(node: AvroType, value: Any) -> Any:
    """Turn a default, as a schema writes it, into a row's value."""
    if node.optional is not None:
        return None if value is None else _row_value(node.optional, value)
    if node.kind in ("bytes", "fixed"):
        raw = value.encode("latin-1")
        if node.logical != "decimal":
            return raw
        return Decimal(int.from_bytes(raw, "big", signed=True)).scaleb(-node.scale)
    if node.kind in ("float", "double"):
        return float(value)
    if node.kind == "array":
        return [_row_value(node.item(), v) for v in value]
    if node.kind == "map":
        return {k: _row_value(node.item(), v) for k, v in value.items()}
    if node.kind == "record":
        return {
            f.name: _row_value(f.type, value[f.name]) if f.name in value else _default(f)
            for f in node.fields
        }
    return value
