"""The JSON object of a request, read strictly."""

from __future__ import annotations

import json
from typing import Any, Final

from penstock_schemas.errors import DecodeError, SchemaError

from penstock_inference.request_numbers import kind

LONGEST_ID: Final = 256
"""Most characters of a caller's id: it becomes part of every record."""


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Strict where readers of JSON differ: UTF-8 only, no NaN, no key twice in one object. What one
    reader takes otherwise than another is a way past a check.

    Raises
    ------
    DecodeError
        It is not one.

    Examples
    --------
    >>> parse_object(b'{"id": "a"}')
    {'id': 'a'}
    >>> parse_object(b'{"id": "a", "id": "b"}')
    Traceback (most recent call last):
    ...
    penstock_schemas.errors.DecodeError: invalid JSON, expected a JSON object, got a key twice: 'id'
    """
    try:
        value = json.loads(
            str(body, "utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as exc:
        raise DecodeError("invalid JSON", expected="a JSON object", got=str(exc)[:80]) from exc
    if not isinstance(value, dict):
        raise DecodeError("invalid JSON", expected="a JSON object", got=kind(value))
    return value


def id_of(fields: dict[str, Any], name: str) -> str:
    """Return a caller's id; empty where it gives none.

    Raises
    ------
    SchemaError
        It is not a text that can be part of a record.
    """
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise SchemaError("wrong type", field=name, expected="a string", got=kind(value))
    if len(value) > LONGEST_ID:
        raise SchemaError(
            "too long",
            field=name,
            expected=f"at most {LONGEST_ID} characters",
            got=str(len(value)),
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        # JSON can write half a character; UTF-8, which records are written in, cannot.
        raise SchemaError(
            "wrong value", field=name, expected="Unicode text", got="a lone surrogate"
        )
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"a key twice: {twice[:40]!r}")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
