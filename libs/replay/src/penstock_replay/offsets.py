"""Offsets as text: of one record, of sets, of the bounds of a range, of a file.

A record's id is ``topic/partition/offset``. A set of offsets is written as the audit holds it.

A bound is what a person gives for where a range begins or ends: a time (``2026-11-21T03:00:00Z``;
without a zone it is UTC), milliseconds since the epoch, an offset (``@120`` in every partition,
``@0:120,3:80`` in some), ``start`` or ``end``. A range includes its first bound and excludes its
second one.

A file of offsets has a line ``topic partition offset`` for each partition; blank lines and what
follows a ``#`` are ignored.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from penstock_schemas.records import AuditEvent

Offsets = dict[tuple[str, int], int]
"""By topic and partition."""
EXPECTED: Final = (
    "expected a time such as 2026-11-21T03:00:00Z, milliseconds since the epoch, an offset such as "
    "@120 or @0:120,3:80, start or end"
)
_LARGEST: Final = 2**63 - 1
_SHORTEST_EPOCH_MS: Final = 10**11
"""Less than this as milliseconds is before 1973: a number that small is meant as an offset."""


@dataclass(frozen=True, slots=True, order=True)
class RecordId:
    """One record of a topic.

    Examples
    --------
    >>> RecordId.parse("fraud.events.v1/2/17")
    RecordId(topic='fraud.events.v1', partition=2, offset=17)
    >>> str(RecordId("t", 0, 5))
    't/0/5'
    """

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> RecordId:
        """Read ``topic/partition/offset``.

        Raises
        ------
        ValueError
            If it is not that.
        """
        topic, _, rest = text.partition("/")
        partition, _, offset = rest.partition("/")
        if not topic or not _is_offset(partition) or not _is_offset(offset):
            raise ValueError(f"expected topic/partition/offset, got {text!r}")
        return cls(topic, int(partition), int(offset))


class OffsetSet:
    """Offsets of one partition, kept as ranges: a million in a row cost as much as one.

    Parameters
    ----------
    text
        As `str` gives it: ranges with both ends inclusive, ascending.

    Raises
    ------
    ValueError
        If the text is not that.

    Examples
    --------
    >>> offsets = OffsetSet("3-5")
    >>> offsets.update([6, 9])
    >>> str(offsets), 5 in offsets, 7 in offsets, len(offsets)
    ('3-6,9', True, False, 5)
    """

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, text: str = "") -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            last = last or first
            if not _is_offset(first) or not _is_offset(last) or int(last) < int(first):
                raise ValueError(f"expected offsets such as 3-7,9, got {text[:60]!r}")
            self.add(int(first), int(last))

    def add(self, first: int, last: int | None = None) -> None:
        """Add the offsets from ``first`` to ``last``, both inclusive."""
        last = first if last is None else last
        # The ranges that touch or overlap the new one become one with it.
        left = bisect_right(self._firsts, first)
        if left and self._lasts[left - 1] >= first - 1:
            left -= 1
            first = self._firsts[left]
        right = bisect_right(self._firsts, last + 1)
        if right > left:
            last = max(last, self._lasts[right - 1])
        self._firsts[left:right] = [first]
        self._lasts[left:right] = [last]

    def update(self, offsets: Iterable[int]) -> None:
        """Add single offsets."""
        for offset in offsets:
            self.add(offset)

    def merge(self, other: OffsetSet) -> None:
        """Add all offsets of another set."""
        for first, last in zip(other._firsts, other._lasts, strict=True):
            self.add(first, last)

    def __contains__(self, offset: int) -> bool:
        at = bisect_right(self._firsts, offset) - 1
        return at >= 0 and offset <= self._lasts[at]

    def __len__(self) -> int:
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OffsetSet) and str(self) == str(other)

    def __hash__(self) -> int:
        raise TypeError("a set of offsets changes")

    def __str__(self) -> str:
        pairs = zip(self._firsts, self._lasts, strict=True)
        return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs)


def done_in(events: Iterable[AuditEvent]) -> dict[str, OffsetSet]:
    """Return what the progress among some events says is done, by partition and topic identity."""
    done: dict[str, OffsetSet] = {}
    for event in events:
        if event.phase == "progress":
            for name, text in event.ranges.items():
                done.setdefault(name, OffsetSet()).merge(OffsetSet(text))
    return done


def audit_name(topic: str, partition: int, topic_id: str) -> str:
    """Return the name of a partition in the audit, with the topic's identity."""
    return f"{topic}/{partition}@{topic_id}"


class Edge(Enum):
    """An end of the log."""

    START = "start"
    END = "end"


@dataclass(frozen=True, slots=True)
class TimeBound:
    """A record's timestamp, milliseconds since the epoch."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class OffsetBound:
    """An offset: the same in every partition, or one for each partition named."""

    everywhere: int | None = None
    by_partition: Mapping[int, int] | None = None

    def of(self, partition: int) -> int | None:
        """Return the offset in a partition; None if the partition is not named."""
        if self.by_partition is None:
            return self.everywhere
        return self.by_partition.get(partition)


Bound = TimeBound | OffsetBound | Edge


def parse_bound(text: str) -> Bound:
    """Read a bound.

    Raises
    ------
    ValueError
        If it is none; the message says what is.

    Examples
    --------
    >>> parse_bound("1970-01-12T13:46:40Z"), parse_bound("@5").of(3), parse_bound("end")
    (TimeBound(at_ms=1000000000), 5, <Edge.END: 'end'>)
    """
    if text in ("start", "end"):
        return Edge(text)
    if text.startswith("@"):
        return _offset_bound(text)
    if text.isascii() and text.isdigit():
        if not (_is_offset(text) and int(text) >= _SHORTEST_EPOCH_MS):
            raise ValueError(f"{text} is no time in milliseconds; an offset is written @{text}")
        return TimeBound(int(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{EXPECTED}, got {text!r}") from None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    # In whole microseconds: a float of seconds would round.
    since = zoned - datetime(1970, 1, 1, tzinfo=UTC)
    return TimeBound((since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000)


def _offset_bound(text: str) -> OffsetBound:
    found: dict[int, int] = {}
    for part in text[1:].split(","):
        partition, colon, offset = part.rpartition(":")
        numbers = [offset, partition] if colon else [offset]
        if not all(map(_is_offset, numbers)):
            raise ValueError(f"{EXPECTED}, got {text!r}")
        if not colon:
            if text[1:] != part:
                raise ValueError(f"{text}: either one offset, or partition:offset throughout")
            return OffsetBound(everywhere=int(offset))
        if int(partition) in found:
            raise ValueError(f"{text}: partition {partition} is named twice")
        found[int(partition)] = int(offset)
    return OffsetBound(by_partition=found)


def parse_offsets(text: str) -> Offsets:
    r"""Read the text of such a file.

    Raises
    ------
    ValueError
        For the first line that is wrong; the message has its number.

    Examples
    --------
    >>> parse_offsets("# by hand\nfraud.events.v1 0 17\n")
    {('fraud.events.v1', 0): 17}
    """
    found: Offsets = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3 or not all(map(_is_offset, words[1:])):
            raise ValueError(f"line {number}: expected 'topic partition offset', got {line!r}")
        partition = (words[0], int(words[1]))
        if partition in found:
            raise ValueError(f"line {number}: {words[0]} {words[1]} is there twice")
        found[partition] = int(words[2])
    if not found:
        raise ValueError("expected lines 'topic partition offset', got none")
    return found


def format_offsets(offsets: Mapping[tuple[str, int], int]) -> str:
    """Return the text of a file with these offsets."""
    return "".join(f"{t} {p} {offset}\n" for (t, p), offset in sorted(offsets.items()))


def _is_offset(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= _LARGEST
