"""Which records of a topic a replay takes: pure, decided record by record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from penstock_replay.headers import Record, headers_of, original_of
from penstock_replay.places import OffsetSet


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of one partition: ``first`` is the first, ``end`` the one after the last."""

    first: int
    end: int

    def __contains__(self, offset: int) -> bool:
        return self.first <= offset < self.end

    @property
    def offsets(self) -> int:
        """How many offsets; records may be fewer."""
        return max(0, self.end - self.first)


class Pick(Enum):
    """What a replay does with a record; the value is its name in counts."""

    SELECTED = "selected"
    OTHER_TIME = "other_time"
    OTHER_KEY = "other_key"
    COPY = "copy"
    """It is a copy, and what it is a copy of is selected itself."""
    UNREADABLE = "unreadable_headers"
    """The client cannot read its headers, so no true copy can be made."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A range of a topic, with its end fixed.

    Parameters
    ----------
    topic_id
        Identity of the topic: one created anew under the same name has other records.
    spans
        By partition. Everything outside is not read.
    since_ms, until_ms
        Timestamps, from and before; None where offsets bound the range. Timestamps need not rise
        with the offsets: a copy has the timestamp of its original.
    keys
        Only records with one of these; empty takes all.
    """

    topic: str
    topic_id: str
    spans: Mapping[int, Span]
    since_ms: int | None = None
    until_ms: int | None = None
    keys: frozenset[bytes] = frozenset()

    def pick(self, record: Record) -> Pick:
        """Decide about a record inside the spans."""
        timestamp_ms = record.timestamp()[1]
        if self.since_ms is not None and timestamp_ms < self.since_ms:
            return Pick.OTHER_TIME
        if self.until_ms is not None and timestamp_ms >= self.until_ms:
            return Pick.OTHER_TIME
        if self.keys and record.key() not in self.keys:
            return Pick.OTHER_KEY
        headers = headers_of(record)
        if headers is None:
            return Pick.UNREADABLE
        original = original_of(headers)
        if original is None or original.topic != self.topic:
            return Pick.SELECTED
        span = self.spans.get(original.partition)
        # Timestamp and key of a copy are its original's: only the offset tells whether that one
        # is selected. A copy of a copy is passed over because of the copy in the middle.
        return Pick.COPY if span is not None and original.offset in span else Pick.SELECTED

    def rest(self, done: Mapping[str, OffsetSet]) -> dict[int, Span]:
        """Return what is left to read, given what was read: always the first part of a span."""
        left: dict[int, Span] = {}
        for partition, span in self.spans.items():
            offsets = done.get(self.mark(partition))
            read = len(offsets) if offsets is not None else 0
            if span.first + read < span.end:
                left[partition] = Span(span.first + read, span.end)
        return left

    def mark(self, partition: int) -> str:
        """Return the name of a partition in the audit."""
        return mark(self.topic, partition, self.topic_id)

    @property
    def ranges(self) -> dict[str, str]:
        """The spans as the audit holds them."""
        return {
            self.mark(p): str(OffsetSet(f"{s.first}-{s.end - 1}"))
            for p, s in sorted(self.spans.items())
            if s.offsets
        }


def mark(topic: str, partition: int, topic_id: str) -> str:
    """Return the name of a partition in the audit, with the topic's identity."""
    return f"{topic}/{partition}@{topic_id}"


def spans_of(ranges: Mapping[str, str], topic: str, topic_id: str) -> dict[int, Span]:
    """Return the spans that an audit record tells of one topic."""
    found: dict[int, Span] = {}
    for name, text in ranges.items():
        place, _, found_id = name.partition("@")
        found_topic, _, partition = place.rpartition("/")
        if (found_topic, found_id) == (topic, topic_id):
            first, _, last = text.partition("-")
            found[int(partition)] = Span(int(first), int(last or first) + 1)
    return found


def operation_id(topic_id: str, arguments: Mapping[str, str]) -> str:
    """Return the id of a replay: the same words about the same topic are the same replay.

    Examples
    --------
    >>> operation_id("x", {"from": "start"}) == operation_id("x", {"from": "start"})
    True
    """
    text = json.dumps([topic_id, sorted(arguments.items())])
    return "replay-" + hashlib.sha256(text.encode()).hexdigest()[:12]
