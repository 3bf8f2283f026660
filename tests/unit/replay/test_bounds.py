from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_replay.bounds import Edge, OffsetBound, TimeBound, parse_bound

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
