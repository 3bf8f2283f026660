"""SIGINT and SIGTERM as an event, and the handlers of before after it."""

import signal

import pytest
from penstock_stack.interruption import interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event(number):
    before = signal.getsignal(number)
    with interruption() as interrupted:
        assert not interrupted.is_set()
        signal.raise_signal(number)
        assert interrupted.wait(20)
    assert signal.getsignal(number) is before
