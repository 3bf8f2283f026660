"""Headers of copies: the original ones, with what tells a copy from its original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from penstock_schemas import headers as names
from penstock_streaming.dead_letters import READ_HEADERS, Header

from penstock_replay.offsets import RecordId

_ATTEMPT_DIGITS = 10


class Record(Protocol):
    """What is asked of the client's message."""

    def topic(self) -> str | None:
        """Return its topic."""

    def partition(self) -> int | None:
        """Return its partition."""

    def offset(self) -> int | None:
        """Return its offset."""

    def key(self) -> bytes | None:
        """Return its key."""

    def value(self) -> bytes | None:
        """Return its value."""

    def timestamp(self) -> tuple[int, int]:
        """Return the kind of its timestamp, and the timestamp in milliseconds."""

    def headers(self) -> Any:
        """Return its headers, a list of pairs; the client's stub knows further kinds."""


def headers_of(record: Record) -> list[Header] | None:
    """Return the headers; None where the client cannot read them (a name that is not UTF-8)."""
    try:
        return [(name, value) for name, value in READ_HEADERS(record) or []]
    except (UnicodeDecodeError, SystemError):
        return None


def id_of(record: Record) -> RecordId:
    """Return a record's id."""
    return RecordId(record.topic() or "", record.partition() or 0, record.offset() or 0)


def text_of(headers: Sequence[Header], name: str) -> str:
    """Return the last value of a header as text; empty if it is not there."""
    for found, value in reversed(headers):
        if found == name:
            return (value or b"").decode(errors="replace")
    return ""


def attempts_in(headers: Sequence[Header]) -> int:
    """Return how often a record has failed so far; what is not a number counts as never."""
    text = text_of(headers, names.DLQ_ATTEMPT)
    is_number = text.isascii() and text.isdigit() and len(text) < _ATTEMPT_DIGITS
    return int(text) if is_number else 0


def original_of(headers: Sequence[Header]) -> RecordId | None:
    """Return the record that this one is a copy of; None if it is none."""
    try:
        return RecordId.parse(text_of(headers, names.REPLAY_OF))
    except ValueError:
        return None


def copy_headers(headers: Sequence[Header], original: RecordId) -> list[Header]:
    """Return the headers of a copy made by a replay of a range."""
    kept = [header for header in headers if header[0] != names.REPLAY_OF]
    return [*kept, (names.REPLAY_OF, str(original).encode())]


def redrive_headers(headers: Sequence[Header], origin: RecordId, attempts: int) -> list[Header]:
    """Return the headers of a dead letter's copy in the events topic.

    Of those that its failure added only the attempts stay: the loop guard counts on them.
    """
    kept = [h for h in headers if h[0] not in names.DEAD_LETTER_HEADERS]
    return [*copy_headers(kept, origin), (names.DLQ_ATTEMPT, str(attempts).encode())]


def parked_headers(headers: Sequence[Header], attempts: int) -> list[Header]:
    """Return a dead letter's headers with the attempts that the guard has counted."""
    kept = [header for header in headers if header[0] != names.DLQ_ATTEMPT]
    return [*kept, (names.DLQ_ATTEMPT, str(attempts).encode())]
