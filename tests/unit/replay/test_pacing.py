from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_replay.pacing import Pacer


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(pacer: Pacer, clock: Clock, records: int, work_s: float = 0.0) -> float:
    """Return the seconds that records take; each needs some work besides."""
    begun = clock.now
    for _ in range(records):
        clock.now += pacer.wait_s()
        pacer.count()
        clock.now += work_s
    return clock.now - begun


@given(st.floats(0.5, 5000), st.integers(20, 400), st.floats(0, 0.9))
def test_the_rate_is_kept_as_long_as_the_work_allows(
    per_s: float, records: int, share: float
) -> None:
    clock = Clock()
    clock.now += 17.0  # time before the first record is not made up for
    elapsed_s = run(Pacer(per_s, clock), clock, records, work_s=share / per_s)
    assert elapsed_s == pytest.approx(records / per_s, rel=0.1)


def test_without_a_rate_nothing_waits() -> None:
    clock = Clock()
    assert run(Pacer(None, clock), clock, 1000) == 0.0


def test_an_outage_is_not_made_up_for_in_one_burst() -> None:
    clock = Clock()
    pacer = Pacer(10.0, clock)
    run(pacer, clock, 10)
    clock.now += 60.0
    assert run(pacer, clock, 100) > 8.5
