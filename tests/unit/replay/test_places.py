from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_replay.places import OffsetSet, Place

OFFSETS = st.integers(0, 60)


@given(st.lists(OFFSETS))
def test_a_set_of_offsets_is_the_set_of_offsets(offsets: list[int]) -> None:
    found = OffsetSet()
    found.update(offsets)
    assert {o for o in range(62) if o in found} == set(offsets)
    assert len(found) == len(set(offsets))
    assert OffsetSet(str(found)) == found


@given(st.lists(st.tuples(OFFSETS, st.integers(0, 20))), st.lists(OFFSETS))
def test_ranges_merge_whatever_their_order(ranges: list[tuple[int, int]], more: list[int]) -> None:
    found, other = OffsetSet(), OffsetSet()
    expected = set(more)
    for first, length in ranges:
        found.add(first, first + length)
        expected |= set(range(first, first + length + 1))
    other.update(more)
    found.merge(other)
    assert {o for o in range(100) if o in found} == expected
    parts = [tuple(map(int, part.split("-"))) for part in str(found).split(",") if part]
    # As short as can be: no two ranges touch.
    assert all(a[-1] + 1 < b[0] for a, b in pairwise(parts))


def test_a_million_in_a_row_are_one_range() -> None:
    found = OffsetSet()
    found.update(range(100_000))
    assert str(found) == "0-99999"


@pytest.mark.parametrize("text", ["x", "5-3", "1,,x", "-1", "1-2-3", "٣", "9" * 30])
def test_other_text_is_no_set(text: str) -> None:
    with pytest.raises(ValueError, match="expected offsets"):
        OffsetSet(text)


@given(
    st.text("abc.-_", min_size=1, max_size=9), st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1)
)
def test_a_place_is_read_as_it_was_written(topic: str, partition: int, offset: int) -> None:
    place = Place(topic, partition, offset)
    assert Place.parse(str(place)) == place


@given(st.text())
def test_any_text_is_a_place_or_an_error(text: str) -> None:
    try:
        assert Place.parse(text).topic
    except ValueError:
        pass
