"""JSON events read strictly by an Avro reader schema, into the same rows that Avro gives.

Timestamps are a number in the schema's unit or RFC 3339 text with a zone, dates a number of days or
``YYYY-MM-DD``, bytes are base64, an enum is one of its symbols, a field with a default may be left
out, an unknown field is ignored. No value is coerced: ``"1"`` is not a number.

The bytes are decoded by msgspec into a struct made of the schema (`json_type`), the struct becomes
a row (`row_converter`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec

from penstock_schemas.avro_schema import AvroField, AvroType, InvalidSchema
from penstock_schemas.errors import DecodeError, SchemaError

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
_JSON_NAMES: Final = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    float: "number",
}

Convert = Callable[[Any], Any]


class JsonEvents:
    """Decoder of JSON events of one record schema.

    Raises
    ------
    InvalidSchema
        If the schema has a part that has no strict JSON form, such as a union of two types.
    """

    def __init__(self, record: AvroType) -> None:
        self._record = record
        self._decoder = msgspec.json.Decoder(json_type(record))
        self._to_row = row_converter(record)

    def decode(self, value: bytes) -> dict[str, Any]:
        """Return the row of one JSON object, with times as numbers.

        Raises
        ------
        DecodeError
            If the bytes are not one JSON object in UTF-8.
        SchemaError
            If a field is missing or of another type; it names the field.
        """
        try:
            str(value, "utf-8")  # the decoder does not look into fields it ignores
            decoded = self._decoder.decode(value)
        except msgspec.ValidationError as exc:
            raise self._mismatch(value) from exc
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise DecodeError("invalid JSON", got=_reason(exc)) from exc
        row: dict[str, Any] = self._to_row(decoded)
        return row

    def _mismatch(self, value: bytes) -> DecodeError | SchemaError:
        """Return the error of a refused value: not JSON at all, before JSON that does not fit."""
        try:
            content = msgspec.json.decode(value)
        except msgspec.ValidationError:
            return SchemaError("the event does not fit its schema", got="a number out of range")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            return DecodeError("invalid JSON", got=_reason(exc))
        found = _explain(content, self._record, "")
        if found is None:
            return SchemaError("the event does not fit its schema")
        path, expected, got = found
        message = "required field missing" if got == "nothing" else "the event does not fit"
        return SchemaError(message, field=path, expected=expected, got=got)


def _reason(exc: Exception) -> str:
    return "too deep nesting" if isinstance(exc, RecursionError) else str(exc)[:120]


def _explain(value: Any, node: AvroType, path: str) -> tuple[str, str, str] | None:
    """Return (field, expected, got) of the first value that does not fit; None if all do."""
    inner = node.optional
    if inner is not None:
        return None if value is None else _explain(value, inner, path)
    if node.kind == "record" and isinstance(value, dict):
        for member in node.fields:
            at = f"{path}.{member.name}" if path else member.name
            if member.name not in value:
                if not member.has_default:
                    return at, member.type.describe(), "nothing"
                continue
            found = _explain(value[member.name], member.type, at)
            if found is not None:
                return found
        return None
    if (node.kind, type(value)) in (("array", list), ("map", dict)):
        items = value.values() if node.kind == "map" else value
        found_in = (_explain(v, node.item(), f"{path}[]") for v in items)
        return next((f for f in found_in if f is not None), None)
    try:
        msgspec.convert(value, json_type(node))
    except msgspec.ValidationError:
        return path, node.describe(), _json_name(value)
    return None


def _json_name(value: Any) -> str:
    if value is None:
        return "null"
    return "integer" if type(value) is int else _JSON_NAMES.get(type(value), type(value).__name__)


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
