"""A file of offsets: a line ``topic partition offset`` each, blank lines and ``#`` comments."""

from __future__ import annotations

from collections.abc import Mapping

Offsets = dict[tuple[str, int], int]
_LARGEST = 2**63 - 1


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
        place = (words[0], int(words[1]))
        if place in found:
            raise ValueError(f"line {number}: {words[0]} {words[1]} is there twice")
        found[place] = int(words[2])
    if not found:
        raise ValueError("expected lines 'topic partition offset', got none")
    return found


def format_offsets(offsets: Mapping[tuple[str, int], int]) -> str:
    """Return the text of a file with these offsets."""
    return "".join(f"{t} {p} {offset}\n" for (t, p), offset in sorted(offsets.items()))


def _is_offset(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= _LARGEST
