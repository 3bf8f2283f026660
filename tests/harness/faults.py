"""Faults that a test does to processes."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST_PAUSE_S = 0.08


def kill(pids: list[int]) -> None:
    """Kill processes with -9."""
    assert pids, "no process to kill"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """Stop processes for the time of the block; they may die in it."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


def kill_inside(pids: list[int], is_inside: Callable[[], bool], deadline_s: float) -> bool:
    """Kill processes at a moment that they are in a given state; tell whether one was found.

    The state is looked at while the processes stand still, so that it cannot pass before the kill.
    Without such a moment in time they are killed as they are.
    """
    end, pause = time.monotonic() + deadline_s, threading.Event()
    while time.monotonic() < end:
        with frozen(pids):
            if is_inside():
                kill(pids)
                return True
        pause.wait(random.uniform(0.0, LONGEST_PAUSE_S))
    kill(pids)
    return False
