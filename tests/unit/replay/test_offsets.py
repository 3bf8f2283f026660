"""TODO."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_replay.offsets import (
    Edge,
    OffsetBound,
    OffsetSet,
    RecordId,
    TimeBound,
    format_offsets,
    parse_bound,
    parse_offsets,
)

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
    place = RecordId(topic, partition, offset)
    assert RecordId.parse(str(place)) == place


@given(st.text())
def test_any_text_is_a_place_or_an_error(text: str) -> None:
    try:
        assert RecordId.parse(text).topic
    except ValueError:
        pass


ZONES = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
MOMENTS = st.datetimes(datetime(1973, 4, 1), datetime(9990, 1, 1), timezones=ZONES)  # noqa: DTZ001


@given(MOMENTS)
def test_a_time_is_its_milliseconds_in_any_zone(moment: datetime) -> None:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    at_ms = since // timedelta(milliseconds=1)
    assert parse_bound(moment.isoformat()) == TimeBound(at_ms)
    assert parse_bound(str(at_ms)) == TimeBound(at_ms)


def test_a_time_without_a_zone_is_utc() -> None:
    assert parse_bound("2026-11-21T03:00:00") == parse_bound("2026-11-21T04:00:00+01:00")
    assert parse_bound("2026-11-21") == parse_bound("2026-11-21T00:00:00Z")


def test_edges_and_offsets() -> None:
    assert parse_bound("start") is Edge.START
    assert parse_bound("end") is Edge.END
    assert parse_bound("@17") == OffsetBound(everywhere=17)
    some = parse_bound("@0:3,12:5")
    assert isinstance(some, OffsetBound)
    assert (some.of(0), some.of(12), some.of(1)) == (3, 5, None)


@pytest.mark.parametrize(
    "text",
    ["", "17", "@", "@-1", "@a", "@1,2", "@0:1,0:2", "@0:", "@:1", "@0:1,5", "tomorrow", "1" * 25],
)
def test_what_is_no_bound_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|offset|twice"):
        parse_bound(text)


@given(st.text(max_size=30) | st.text("@:,0123456789-TZ+.", max_size=30))
def test_any_text_is_a_bound_or_an_error(text: str) -> None:
    try:
        parse_bound(text)
    except ValueError:
        pass


TOPICS = st.text("abcXYZ019._-", min_size=1, max_size=20)
OFFSETS = st.dictionaries(
    st.tuples(TOPICS, st.integers(0, 10_000)), st.integers(0, 2**63 - 1), min_size=1
)


@given(OFFSETS)
def test_a_file_is_read_as_it_was_written(offsets: dict[tuple[str, int], int]) -> None:
    assert parse_offsets(format_offsets(offsets)) == offsets


@given(OFFSETS, st.sampled_from(["", "# words", "   ", "\t# 1 2 3"]))
def test_blank_lines_and_comments_do_not_count(
    offsets: dict[tuple[str, int], int], line: str
) -> None:
    lines = format_offsets(offsets).splitlines()
    text = "\r\n".join(part for pair in lines for part in (line, f" {pair}  # so"))
    assert parse_offsets(text) == offsets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got none"),
        ("# only words\n", "got none"),
        ("t 0\n", "line 1"),
        ("t 0 1\nt 0 x\n", "line 2"),
        ("t 0 1\n\nt 0 2\n", "line 3: t 0 is there twice"),
        ("t -1 5\n", "line 1"),
        ("t 0 1 extra\n", "line 1"),
        (f"t 0 {2**63}\n", "line 1"),
    ],
)
def test_a_wrong_line_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_offsets(text)


@given(st.text())
def test_any_text_is_offsets_or_an_error(text: str) -> None:
    try:
        assert parse_offsets(text)
    except ValueError:
        pass
