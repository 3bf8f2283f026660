"""Waiting with a deadline, on conditions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

DEADLINE_S = 20.0


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Return a function that waits until a condition holds, or fails the test."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline, "the condition did not become true in time"
            pause.wait(0.02)

    return wait
