"""Where a range begins or ends, as a person writes it.

A time (``2026-11-21T03:00:00Z``; without a zone it is UTC), milliseconds since the epoch, an offset
(``@120`` in every partition, ``@0:120,3:80`` in some), ``start`` or ``end``. A range takes its
first bound in and leaves its second one out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final

EXPECTED: Final = (
    "expected a time such as 2026-11-21T03:00:00Z, milliseconds since the epoch, an offset such as "
    "@120 or @0:120,3:80, start or end"
)
_SHORTEST_EPOCH_MS: Final = 10**11
"""Less than this as milliseconds is before 1973: a number that small is meant as an offset."""
_LARGEST: Final = 2**63 - 1


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
        return _offsets(text)
    if text.isascii() and text.isdigit():
        if not _SHORTEST_EPOCH_MS <= int(text) <= _LARGEST:
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


def _offsets(text: str) -> OffsetBound:
    found: dict[int, int] = {}
    for part in text[1:].split(","):
        partition, colon, offset = part.rpartition(":")
        numbers = [offset, partition] if colon else [offset]
        if not all(n.isascii() and n.isdigit() and int(n) <= _LARGEST for n in numbers):
            raise ValueError(f"{EXPECTED}, got {text!r}")
        if not colon:
            if text[1:] != part:
                raise ValueError(f"{text}: either one offset, or partition:offset throughout")
            return OffsetBound(everywhere=int(offset))
        if int(partition) in found:
            raise ValueError(f"{text}: partition {partition} is named twice")
        found[int(partition)] = int(offset)
    return OffsetBound(by_partition=found)
