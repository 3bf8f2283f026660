"""Where a record lies, and sets of offsets: as text, as the audit and the headers hold them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

_LONGEST_NUMBER = 19


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One record of a topic.

    Examples
    --------
    >>> Place.parse("fraud.events.v1/2/17")
    Place(topic='fraud.events.v1', partition=2, offset=17)
    >>> str(Place("t", 0, 5))
    't/0/5'
    """

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read ``topic/partition/offset``.

        Raises
        ------
        ValueError
            If it is not that.
        """
        topic, _, rest = text.partition("/")
        partition, _, offset = rest.partition("/")
        if not topic or not _is_number(partition) or not _is_number(offset):
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
            if not _is_number(first) or not _is_number(last) or int(last) < int(first):
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


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER
