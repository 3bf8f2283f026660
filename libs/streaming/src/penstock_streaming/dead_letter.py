"""A record that failed, with what failed it: the dead letter.

Key, value, timestamp and the original headers stay byte-identical; the headers of
`penstock_schemas.headers` are replaced, never appended, so that a record that passes a dead-letter
topic twice does not grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final

from penstock_schemas import headers as names
from penstock_schemas.errors import RecordError
from penstock_schemas.topics import DEAD_LETTER_HEADROOM_BYTES, EVENTS_MAX_BYTES

if TYPE_CHECKING:
    from confluent_kafka import Message

Header = tuple[str, bytes | None]

MESSAGE_MAX_CHARS = 1024
"""An error message may quote the record; the headers must fit the topic's headroom."""
UNREADABLE_HEADERS = " (a header name is not UTF-8: the original headers are left out)"
_FRAME_BYTES = 5
READ_HEADERS: Final[Any] = methodcaller("headers")
"""For a name that is not UTF-8 the client returns a result with an exception set. A method that is
called often the interpreter calls without looking for that, and crashes later; C always looks."""
TOO_LARGE = " (value of {} bytes left out: it is larger than a dead letter; see dlq.origin)"
DEAD_LETTER_MAX_BYTES: Final = EVENTS_MAX_BYTES + DEAD_LETTER_HEADROOM_BYTES // 2
"""Largest key, value and original headers together; the rest of the headroom is for ours."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record for a dead-letter topic.

    Parameters
    ----------
    timestamp_ms
        The original record's; librdkafka cannot send 0 and stamps such a record anew.
    """

    key: bytes | None
    value: bytes | None
    partition: int
    timestamp_ms: int
    headers: list[Header]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why and where a record failed, apart from the record itself.

    Parameters
    ----------
    service
        The service that gives up on it.
    origin
        ``topic/partition/offset`` in the events topic; None where the record is the origin.
    now_ms
        Wall clock, milliseconds since the epoch.
    """

    error: RecordError
    service: str
    origin: str | None
    now_ms: int


def dead_letter(message: Message, failure: Failure) -> DeadLetter:
    """Build the dead letter of a message.

    A compressed batch may hold records that no topic takes by themselves. Such a letter has no
    value; without one a letter is of no other kind, for a tombstone is no dead letter.
    """
    original = _headers_of(message)
    added = _failure_headers(message, failure, dict(original or ()))
    if original is None:
        added[names.ERROR_MESSAGE] += UNREADABLE_HEADERS
    kept = [header for header in original or () if header[0] not in names.DEAD_LETTER_HEADERS]
    key, value = message.key(), message.value()
    if _size(key, value, kept) > DEAD_LETTER_MAX_BYTES:
        added[names.ERROR_MESSAGE] += TOO_LARGE.format(len(value or b""))
        value = None
        if _size(key, value, kept) > DEAD_LETTER_MAX_BYTES:
            key, kept = None, []
    return DeadLetter(
        key=key,
        value=value,
        partition=message.partition() or 0,
        timestamp_ms=message.timestamp()[1],
        headers=kept + [(name, text.encode()) for name, text in added.items()],
    )


def _size(key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> int:
    in_headers = sum(len(name) + len(content or b"") for name, content in headers)
    return len(key or b"") + len(value or b"") + in_headers


def _headers_of(message: Message) -> Sequence[Header] | None:
    """Return the headers as a list of pairs, or None where the client cannot read them.

    It knows header names as text only: a name that is not UTF-8 hides all headers of the record.
    """
    try:
        raw = READ_HEADERS(message) or []
    except (UnicodeDecodeError, SystemError):
        return None
    pairs = raw.items() if isinstance(raw, dict) else raw
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]


def _failure_headers(
    message: Message, failure: Failure, before: dict[str, bytes | None]
) -> dict[str, str]:
    error = failure.error
    place = f"{message.topic()}/{message.partition()}/{message.offset()}"
    first = _text(before.get(names.DLQ_FIRST_FAILED_AT))
    schema_id = error.schema_id if error.schema_id is not None else _framed_id(message.value())
    return {
        names.ERROR_EXCEPTION: type(error).__name__,
        names.ERROR_MESSAGE: str(error)[:MESSAGE_MAX_CHARS],
        names.ERROR_TOPIC: str(message.topic()),
        names.ERROR_PARTITION: str(message.partition()),
        names.ERROR_OFFSET: str(message.offset()),
        names.DLQ_SERVICE: failure.service,
        names.DLQ_STAGE: error.stage,
        names.DLQ_CLASS: error.dead_letter_class,
        names.DLQ_ATTEMPT: str(_attempt(before.get(names.DLQ_ATTEMPT)) + 1),
        names.DLQ_FIRST_FAILED_AT: first or _iso(failure.now_ms),
        names.DLQ_SCHEMA_ID: "" if schema_id is None else str(schema_id),
        names.DLQ_MODEL: error.model or "",
        names.DLQ_ORIGIN: failure.origin or place,
    }


def _text(value: bytes | None) -> str:
    return value.decode(errors="replace") if value else ""


def _attempt(value: bytes | None) -> int:
    """Return the attempts so far; what is not a number counts as none."""
    text = _text(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _framed_id(value: bytes | None) -> int | None:
    """Return the schema id of a Confluent-framed value, if the frame is there."""
    if value is None or len(value) < _FRAME_BYTES or value[0] != 0:
        return None
    return int.from_bytes(value[1:_FRAME_BYTES], "big")


def _iso(now_ms: int) -> str:
    moment = datetime.fromtimestamp(now_ms / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
