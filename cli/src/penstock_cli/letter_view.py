"""A dead letter as it is shown: what failed it in plain words, what it holds masked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from penstock_cli import console
from penstock_cli.cluster import moment

if TYPE_CHECKING:
    from penstock_registry.client import RegistryClient
    from penstock_replay.dead_letters import Found

_HEX_BYTES: Final = 256
"""Of a value that cannot be decoded, shown at most."""


def letter_view(found: Found, registry: RegistryClient, *, payload: bool) -> dict[str, Any]:
    """Return what is shown of a letter.

    Parameters
    ----------
    payload
        Show keys, values and the producer's headers; otherwise only their shape.
    """
    from penstock_schemas.headers import DEAD_LETTER_HEADERS, DLQ_MODEL, DLQ_SCHEMA_ID

    letter, message = found.letter, found.message
    added = {n: (v or b"").decode(errors="replace") for n, v in letter.headers}
    original = [(n, v) for n, v in letter.headers if n not in DEAD_LETTER_HEADERS]
    value, form = decoded(message.value(), registry)
    return {
        "id": str(letter.record_id),
        "class": letter.dead_letter_class,
        "cause": letter.cause,
        "service": letter.service,
        "stage": letter.stage,
        "model": added.get(DLQ_MODEL) or None,
        "schema_id": added.get(DLQ_SCHEMA_ID) or None,
        "attempt": letter.attempts,
        "first_failed_at": moment(letter.failed_at_ms),
        "origin": str(letter.origin) if letter.origin else None,
        "timestamp": moment(message.timestamp()[1]),
        "done": found.is_done,
        "key": _text(message.key()) if payload else masked(message.key()),
        "headers": [{"name": n, "value": _text(v) if payload else masked(v)} for n, v in original],
        "format": form,
        "value": _plain(value) if payload else masked(value),
    }


def decoded(value: bytes | None, registry: RegistryClient) -> tuple[Any, str]:
    """Return a value for people and what it was read as: avro, json, bytes or tombstone."""
    from penstock_schemas.avro_rows import require_schema_id
    from penstock_schemas.codec import decode_one
    from penstock_schemas.errors import RecordError, RetryableError

    if value is None:
        return None, "tombstone"
    try:
        schema = registry.schema_text(require_schema_id(value))
        return _plain(decode_one(value, lambda _: schema, schema)), "avro"
    except (RecordError, RetryableError):
        pass
    try:
        return _plain(json.loads(value)), "json"
    except (ValueError, RecursionError):
        return value, "bytes"


def masked(value: Any) -> Any:
    """Return the shape of a value without what it says.

    Examples
    --------
    >>> masked({"card": "1234", "amounts": [1.5, 2.5], "ok": None})
    {'card': '<text of 4>', 'amounts': '<2 items>', 'ok': None}
    """
    match value:
        case None:
            return None
        case dict():
            return {name: masked(inner) for name, inner in value.items()}
        case list() | tuple():
            return f"<{len(value)} items>"
        case str():
            return f"<text of {len(value)}>"
        case bytes():
            return f"<{len(value)} bytes>"
        case bool():
            return "<true or false>"
        case _:
            return "<number>"


def print_letter(view: dict[str, Any]) -> None:
    """Print a letter as a block of lines."""
    state = "done" if view["done"] else "open"
    console.result(f"{view['id']}  {view['class']}  attempt {view['attempt']}  {state}")
    for name in ("cause", "service", "stage", "model", "schema_id", "origin"):
        if view[name]:
            console.result(f"  {name:<16}{view[name]}")
    console.result(f"  {'first failed at':<16}{view['first_failed_at'] or '-'}")
    console.result(f"  {'timestamp':<16}{view['timestamp']}")
    console.result(f"  {'key':<16}{_line(view['key'])}")
    for header in view["headers"]:
        console.result(f"  {'header':<16}{header['name']}: {_line(header['value'])}")
    console.result(f"  {'value':<16}{view['format']} {_line(view['value'])}")
    console.result("")


def _line(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a decoded value as JSON can hold it."""
    match value:
        case dict():
            return {str(name): _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case bytes():
            return _text(value)
        case float() if value != value or value in (float("inf"), float("-inf")):
            return str(value)
        case _:
            return value


def _text(value: bytes | None) -> str | None:
    """Return bytes as text if they are, else as hexadecimal digits."""
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\x00"
    if text.isprintable():
        return text
    rest = len(value) - _HEX_BYTES
    return f"0x{value[:_HEX_BYTES].hex()}" + (f"… {rest} bytes more" if rest > 0 else "")
