"""When a commit is due, and which offsets it commits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_streaming.checkpoint import CommitPace, OffsetTracker
from penstock_streaming.handler import MessageBatch

INTERVAL_S = 0.1


def test_record_after_a_rest_is_committed_at_once() -> None:
    pace = CommitPace(0.0)
    pace.committed(10.0, 10.01)
    assert pace.due_at(INTERVAL_S) <= 10.2


def test_commits_are_an_interval_apart_however_long_they_take() -> None:
    pace = CommitPace(0.0)
    pace.committed(10.0, 10.04)
    assert pace.due_at(INTERVAL_S) == pytest.approx(10.1)


def test_slow_broker_leaves_time_for_work() -> None:
    pace = CommitPace(0.0)
    pace.committed(10.0, 15.0)
    assert pace.due_at(INTERVAL_S) == pytest.approx(15.05)


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 1.0), max_size=30), st.floats(0.001, 1.0))
def test_never_more_often_than_the_interval(lengths: list[float], interval_s: float) -> None:
    now = 0.0
    pace = CommitPace(now)
    for length_s in lengths:
        due = pace.due_at(interval_s)
        assert due >= now + interval_s * 0.5 - 1e-9
        began, now = due, due + length_s
        pace.committed(began, now)
        assert pace.due_at(interval_s) - began >= interval_s - 1e-9


def batch(*rows: tuple[int, int]) -> MessageBatch:
    n = len(rows)
    return MessageBatch(
        topic="t",
        messages=[],
        values=[None] * n,
        keys=[None] * n,
        partitions=np.array([p for p, _ in rows], np.int32),
        offsets=np.array([o for _, o in rows], np.int64),
    )


def test_an_end_is_the_last_offset_plus_one_of_each_partition() -> None:
    offsets = OffsetTracker()
    offsets.track(batch((0, 4), (1, 10), (0, 5), (0, 9)))
    offsets.track(batch((1, 11)))
    assert offsets.ends({}) == {0: 10, 1: 12}


def test_positions_step_over_control_records_and_never_back() -> None:
    offsets = OffsetTracker()
    offsets.track(batch((0, 4), (1, 9)))
    assert offsets.ends({0: 7, 1: 3, 2: 50}) == {0: 7, 1: 10}


def test_only_committed_partitions_can_be_behind() -> None:
    offsets = OffsetTracker()
    offsets.track(batch((0, 4)))
    offsets.commit(offsets.ends({}))
    assert offsets.behind({0: 6, 1: 9}) == {0: 6}
    assert offsets.behind({0: 5}) == {}
    assert offsets.open_ends == {}


def test_after_a_roll_back_no_position_is_trusted() -> None:
    offsets = OffsetTracker()
    offsets.track(batch((0, 4)))
    offsets.commit({0: 5})
    offsets.track(batch((0, 5)))
    offsets.roll_back()
    assert offsets.ends({0: 9}) == {}
    assert offsets.behind({0: 9}) == {}


def test_partitions_given_up_are_forgotten() -> None:
    offsets = OffsetTracker()
    offsets.track(batch((0, 4), (1, 4)))
    offsets.forget_partitions([1])
    assert offsets.ends({}) == {0: 5}
