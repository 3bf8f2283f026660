"""Waits double up to a limit, budgets slide, a client call that stays is left behind."""

from __future__ import annotations

import threading

import pytest
from penstock_schemas.errors import RetryableError
from penstock_streaming import timing
from penstock_streaming.errors import OutcomeUnknown
from penstock_streaming.timing import Budget, Outage, RejoinTimer, within


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_wait_starts_as_asked_doubles_and_is_bounded() -> None:
    outage = Outage(5.0, Clock())
    waits = [outage.begin(RetryableError("x", retry_after_s=1.0)) for _ in range(60)]
    assert waits[:4] == [1.0, 2.0, 4.0, 5.0]
    assert waits[-1] == 5.0


def test_an_outage_counts_down_and_starts_anew_after_it_ended() -> None:
    clock = Clock()
    outage = Outage(5.0, clock)
    assert (outage.is_active, outage.remaining_s) == (False, 0.0)
    outage.begin(RetryableError("x", retry_after_s=2.0))
    clock.now = 1.5
    assert outage.remaining_s == 0.5
    clock.now = 3.0
    assert (outage.is_active, outage.remaining_s) == (True, 0.0)
    outage.end()
    assert outage.begin(RetryableError("x", retry_after_s=2.0)) == 2.0


def test_a_budget_is_refilled_as_its_window_slides() -> None:
    clock = Clock()
    budget = Budget(1, 10.0, clock)
    assert budget.spend()
    assert not budget.spend()
    clock.now = 10.5
    assert budget.spend()


def test_an_empty_budget_gives_nothing() -> None:
    assert not Budget(0, 10.0, Clock()).spend()


def test_timer_ends_once_and_lasts_twice_as_long_the_next_time() -> None:
    clock = Clock()
    timer = RejoinTimer(10.0, clock)
    clock.now = 50.0
    assert timer.overdue_s() is None, "nobody waits"
    timer.begin()
    clock.now = 55.0
    timer.begin()
    assert timer.overdue_s() is None
    clock.now = 60.0
    assert timer.overdue_s() == 10.0
    clock.now = 79.0
    assert timer.overdue_s() is None
    clock.now = 80.0
    assert timer.overdue_s() == 20.0


def test_an_answer_ends_the_wait_and_makes_the_next_one_short_again() -> None:
    clock = Clock()
    timer = RejoinTimer(10.0, clock)
    timer.begin()
    clock.now = 10.0
    assert timer.overdue_s() == 10.0
    timer.end()
    clock.now = 100.0
    assert timer.overdue_s() is None
    timer.begin()
    clock.now = 110.0
    assert timer.overdue_s() == 10.0


def test_the_time_out_is_passed_on_and_errors_come_back() -> None:
    given: list[float] = []
    within(given.append, 1.5)
    assert given == [1.5]

    def fail(_: float) -> None:
        raise KeyError("told")

    with pytest.raises(KeyError, match="told"):
        within(fail, 1.0)


def test_a_call_that_stays_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "GRACE_S", 0.05)
    stay = threading.Event()
    with pytest.raises(OutcomeUnknown, match="has not returned"):
        within(lambda _: stay.wait(20), 0.05)
    stay.set()
