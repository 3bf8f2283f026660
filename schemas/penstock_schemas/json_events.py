"""JSON events read strictly by an Avro reader schema, into the same rows that Avro gives.

Timestamps are a number in the schema's unit or RFC 3339 text with a zone, dates a number of days or
``YYYY-MM-DD``, bytes are base64, an enum is one of its symbols, a field with a default may be left
out, an unknown field is ignored. No value is coerced: ``"1"`` is not a number.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock_schemas.avro_types import AvroType
from penstock_schemas.errors import DecodeError, SchemaError
from penstock_schemas.json_types import json_type, row_converter

_JSON_NAMES: Final = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    float: "number",
}


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
        """Tell bad JSON from JSON that does not fit; the former wins, wherever it stands."""
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
