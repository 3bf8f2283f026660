"""From raw records to facts: origin, writer, event id, headers. Uses fastavro only."""

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
    Headers,
    LedgerTopics,
    RawRecord,
    Role,
    digest,
)

MAGIC: Final = 0
PREFIX: Final = struct.Struct(">bI")


class Unreadable(Exception):
    """An output that breaks its contract so badly that it states no facts."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What an output record says about its event.

    Parameters
    ----------
    origin
        (topic, partition, offset) in the events topic; None if the record names none.
    features
        Digest of the feature list, to compare what was computed with what the model saw.
    """

    origin: tuple[str, int, int] | None
    attempt: str | None = None
    event_id: str | None = None
    features: bytes | None = None
    outcome: str | None = None


class RecordDecoder:
    """Reads FeatureVectors, Predictions and dead letters.

    Parameters
    ----------
    schema_text
        Returns the writer's schema by registry id; raises LookupError for an unknown id.
    """

    def __init__(self, schema_text: Callable[[int], str]) -> None:
        self._schema_text = schema_text
        self._parsed: dict[int, Any] = {}

    def facts(self, role: Role, record: RawRecord) -> Facts:
        """Return the facts of an output record.

        Raises
        ------
        Unreadable
            If the record is not what its topic promises.
        """
        if role in ("events_dlq", "features_dlq"):
            return Facts(parse_origin(header_text(record.headers, "dlq.origin")))
        value = self.value(record)
        try:
            origin = value["origin"]
            place = (
                None
                if origin is None
                else (str(origin["topic"]), int(origin["partition"]), int(origin["offset"]))
            )
            packed = struct.pack(f">{len(value['features'])}f", *value["features"])
            return Facts(
                place,
                value.get("attempt"),
                value["event_id"],
                digest(packed),
                value.get("outcome"),
            )
        except (KeyError, TypeError) as exc:
            raise Unreadable(f"field missing or of a wrong type: {exc}") from exc

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
            text = self._schema_text(schema_id)
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
    if len(parts) != 3 or not parts[1].isdecimal() or not parts[2].isdecimal():
        return None
    return parts[0], int(parts[1]), int(parts[2])


def dead_letter_headers(record: RawRecord) -> list[tuple[str, str | None, int]]:
    """Return (name, text, times present) for each header a dead letter must carry."""
    names = [name for name, _ in record.headers]
    return [
        (name, header_text(record.headers, name), names.count(name)) for name in DEAD_LETTER_HEADERS
    ]


def check_topic(facts: Facts, topics: LedgerTopics) -> str | None:
    """Return what is wrong with the origin a record names, if anything."""
    if facts.origin is None:
        return "names no origin"
    if facts.origin[0] != topics.events:
        return f"origin in topic {facts.origin[0]}"
    return None
