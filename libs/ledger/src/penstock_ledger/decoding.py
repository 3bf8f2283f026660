"""From raw records to facts: origin, writer, event id, headers.

Single records are read by fastavro; `columnar` does batches.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import fastavro

from penstock_ledger.records import (
    DEAD_LETTER_HEADERS,
    DLQ_ATTEMPT,
    REPLAY_OF,
    Headers,
    LedgerTopics,
    RawRecord,
    Role,
)

MAGIC: Final = 0
PREFIX: Final = struct.Struct(">bI")

SchemaText = Callable[[int], str]
"""Returns the writer's schema by registry id; raises LookupError for an unknown id."""


class Unreadable(Exception):
    """An output that breaks its contract so badly that it states no facts."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a copy in the events topic says of itself.

    Parameters
    ----------
    original
        (topic, partition, offset); None where the header is not a place.
    attempts
        How often the event had failed when it was copied; None for a copy that no failure led to.
    """

    original: tuple[str, int, int] | None
    attempts: int | None


class RecordDecoder:
    """Reads single FeatureVectors and Predictions.

    Parameters
    ----------
    schema_text
        The registry.
    """

    def __init__(self, schema_text: SchemaText) -> None:
        self.schema_text = schema_text
        self._parsed: dict[int, Any] = {}

    def value(self, record: RawRecord) -> dict[str, Any]:
        """Return the decoded value of a record of an Avro topic.

        Raises
        ------
        Unreadable
            If it is not Confluent-framed Avro of a known schema.
        """
        value = record.value
        if value is None or len(value) < PREFIX.size:
            raise Unreadable("no Confluent prefix")
        magic, schema_id = PREFIX.unpack_from(value)
        if magic != MAGIC:
            raise Unreadable(f"magic byte {magic}")
        stream = io.BytesIO(value)
        stream.seek(PREFIX.size)
        try:
            decoded = fastavro.schemaless_reader(stream, self._schema(schema_id), None)
        except LookupError as exc:
            raise Unreadable(f"schema id {schema_id}: {exc}") from exc
        except (ValueError, EOFError, OverflowError) as exc:
            raise Unreadable(f"not Avro of schema {schema_id}: {exc}") from exc
        if stream.read(1):
            raise Unreadable("trailing bytes")
        if not isinstance(decoded, dict):
            raise Unreadable("not an Avro record")
        return decoded

    def _schema(self, schema_id: int) -> Any:
        if schema_id not in self._parsed:
            text = self.schema_text(schema_id)
            self._parsed[schema_id] = fastavro.parse_schema(json.loads(text))
        return self._parsed[schema_id]


def header_text(headers: Headers, name: str) -> str | None:
    """Return a header as text, None if it is absent, null or not UTF-8."""
    for found, value in headers:
        if found == name and value is not None:
            try:
                return value.decode()
            except UnicodeDecodeError:
                return None
    return None


def parse_origin(text: str | None) -> tuple[str, int, int] | None:
    """Parse ``topic/partition/offset``.

    Examples
    --------
    >>> parse_origin("fraud.events.v1/2/17")
    ('fraud.events.v1', 2, 17)
    >>> parse_origin("17") is None
    True
    """
    if text is None:
        return None
    parts = text.rsplit("/", 2)
    if len(parts) != 3 or not all(p.isascii() and p.isdigit() and len(p) < 19 for p in parts[1:]):
        return None
    return parts[0], int(parts[1]), int(parts[2])


def dead_letter_origin(headers: Headers | None, topics: LedgerTopics) -> tuple[int, int]:
    """Return the (partition, offset) of the event that a dead letter says it comes from.

    Raises
    ------
    Unreadable
        If it names none, or one of another topic.
    """
    origin = parse_origin(header_text(headers or (), "dlq.origin"))
    if origin is None:
        raise Unreadable("names no origin")
    if origin[0] != topics.events:
        raise Unreadable(f"origin in topic {origin[0]}")
    return origin[1:]


def dead_letter_headers(headers: Headers | None) -> list[tuple[str, str | None, int]]:
    """Return (name, text, times present) for each header a dead letter must carry."""
    names = [name for name, _ in headers or ()]
    return [
        (name, header_text(headers or (), name), names.count(name)) for name in DEAD_LETTER_HEADERS
    ]


def replay_of(headers: Headers | None) -> Replay | None:
    """Return what a copy says of itself; None for a record that is no copy."""
    if not headers or all(name != REPLAY_OF for name, _ in headers):
        return None
    attempts = header_text(headers, DLQ_ATTEMPT)
    is_number = attempts is not None and attempts.isascii() and attempts.isdigit()
    return Replay(
        parse_origin(header_text(headers, REPLAY_OF)), int(attempts or 0) if is_number else None
    )


def is_avro(role: Role) -> bool:
    """Return whether a topic's values are Avro of ours."""
    return role in ("features", "predictions")
