from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_streaming.commit_pace import CommitPace

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
