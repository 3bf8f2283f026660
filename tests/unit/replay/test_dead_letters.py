from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_replay.broker import TopicFacts
from penstock_replay.dead_letters import PARK, REPLAY, LetterFilter, _spans, done_by
from penstock_replay.offsets import Bound, Edge, OffsetBound, RecordId, TimeBound, parse_bound
from penstock_schemas.errors import ConfigError
from penstock_schemas.records import AuditEvent
from penstock_streaming.log_view import Span

FACTS = TopicFacts("t.dlq", "id", {0: 5, 1: 0, 2: 0}, {0: 50, 1: 20, 2: 0})
OFFSETS = st.integers(0, 60).map(lambda o: OffsetBound(everywhere=o))
BOUNDS = st.sampled_from([Edge.START, Edge.END, TimeBound(5), OffsetBound(by_partition={1: 7})])
PLACES = st.frozensets(
    st.builds(RecordId, st.sampled_from(["t.dlq", "u.dlq"]), st.integers(0, 2), st.integers(0, 60))
)


def meant(bound: Bound, partition: int, offset: int, *, is_end: bool) -> bool:
    """Tell, by another way, whether an offset is inside of a bound."""
    if isinstance(bound, OffsetBound):
        at = bound.of(partition)
        return at is not None and (offset < at if is_end else offset >= at)
    if isinstance(bound, Edge):
        return (bound is Edge.END) == is_end
    return True


@given(OFFSETS | BOUNDS, OFFSETS | BOUNDS, PLACES)
def test_what_is_read_holds_everything_that_is_meant_and_nothing_outside_of_the_log(
    since: Bound, until: Bound, places: frozenset[RecordId]
) -> None:
    spans = _spans(LetterFilter(since=since, until=until, ids=places), FACTS)
    for partition, end in FACTS.ends.items():
        span = spans.get(partition, Span(0, 0))
        for offset in range(70):
            is_there = FACTS.oldest[partition] <= offset < end
            is_meant = meant(since, partition, offset, is_end=False) and meant(
                until, partition, offset, is_end=True
            )
            is_named = not places or RecordId("t.dlq", partition, offset) in places
            if is_there and is_meant and is_named:
                assert offset in span
            if offset in span:
                assert is_there
                assert is_meant


def test_a_partition_that_is_not_there_is_named() -> None:
    bound = parse_bound("@1:5,9:3")
    assert isinstance(bound, OffsetBound)
    with pytest.raises(ConfigError, match="no partition 9"):
        FACTS.named(bound)


def test_only_a_redrive_is_done_with_letters() -> None:
    def progress(action: str, ranges: str, phase: str = "progress") -> AuditEvent:
        return AuditEvent("e", "o", 0, "ann", action, "p", phase, ranges={"t.dlq/0@id": ranges})

    done = done_by(
        [
            progress(REPLAY, "0-3"),
            progress("replay", "7-9"),
            progress(PARK, "5"),
            progress(REPLAY, "0-50", phase="begin"),
        ]
    )
    assert {name: str(offsets) for name, offsets in done.items()} == {"t.dlq/0@id": "0-3,5"}
