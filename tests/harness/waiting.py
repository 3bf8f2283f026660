"""Waiting for a condition with a deadline: the only way tests wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NotInTime(AssertionError):
    """A condition did not come true before its deadline."""


def eventually(
    condition: Callable[[], T],
    deadline_s: float,
    what: str = "",
    *,
    every_s: float = 0.2,
    unless: Callable[[], object] | None = None,
) -> T:
    """Return the first truthy value of ``condition``.

    An exception of the condition counts as not yet; the last one is the cause of the failure. One
    of ``unless`` ends the waiting at once.

    Raises
    ------
    NotInTime
        After ``deadline_s`` seconds without one.
    """
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    last: object = None
    cause: Exception | None = None
    while True:
        if unless is not None:
            unless()
        try:
            last, cause = condition(), None
        except Exception as exc:  # whatever it is, it is reported when the time is up
            cause = exc
        else:
            if last:
                return last
        if time.monotonic() >= end:
            name = what or getattr(condition, "__name__", "condition")
            raise NotInTime(f"not within {deadline_s:g} s: {name}; last: {last!r}") from cause
        pause.wait(every_s)


def holds_for(condition: Callable[[], bool], duration_s: float, what: str) -> None:
    """Assert that a condition stays true for a time.

    Raises
    ------
    AssertionError
        As soon as it is false.
    """
    end = time.monotonic() + duration_s
    pause = threading.Event()
    while time.monotonic() < end:
        assert condition(), f"no longer true: {what}"
        pause.wait(0.2)
