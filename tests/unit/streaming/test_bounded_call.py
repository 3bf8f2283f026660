"""A client call that does not return is left behind; any other behaves as if made directly."""

from __future__ import annotations

import threading

import pytest
from penstock_streaming import bounded_call
from penstock_streaming.bounded_call import within
from penstock_streaming.errors import OutcomeUnknown


def test_the_time_out_is_passed_on_and_errors_come_back() -> None:
    given: list[float] = []
    within(given.append, 1.5)
    assert given == [1.5]

    def fail(_: float) -> None:
        raise KeyError("told")

    with pytest.raises(KeyError, match="told"):
        within(fail, 1.0)


def test_a_call_that_stays_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_call, "GRACE_S", 0.05)
    stay = threading.Event()
    with pytest.raises(OutcomeUnknown, match="has not returned"):
        within(lambda _: stay.wait(20), 0.05)
    stay.set()
