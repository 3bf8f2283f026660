"""A signal ends a service wherever it meets its main thread."""

import signal
import threading

import pytest
from penstock_service.command import on_stop


@pytest.fixture(autouse=True)
def handlers():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_meets_its_own_lock_waits_for_it_elsewhere(number):
    lock, stopped = threading.Lock(), threading.Event()

    def stop():
        if lock.acquire(timeout=20):
            stopped.set()

    on_stop(stop)
    with lock:
        signal.raise_signal(number)
        assert not stopped.is_set()
    assert stopped.wait(20)
