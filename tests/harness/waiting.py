"""Waiting with a deadline, the only way tests wait, and calls in threads that fail loudly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


JOIN_S = 180.0


class BackgroundCall:
    """A call that runs in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as exc:  # raised again by check
            self._failed = exc

    def check(self) -> None:
        """Raise what the call has raised, if it has."""
        if self._failed is not None:
            raise AssertionError("the background call failed") from self._failed

    def join(self) -> None:
        """Wait for the end, and check."""
        self._thread.join(JOIN_S)
        assert not self._thread.is_alive(), "the background call did not end"
        self.check()


Background = Callable[[Callable[[], object]], BackgroundCall]


@contextmanager
def background_calls() -> Iterator[Background]:
    """Yield a function that starts calls; at the end every one of them has ended well."""
    started: list[BackgroundCall] = []

    def start(call: Callable[[], object]) -> BackgroundCall:
        started.append(BackgroundCall(call))
        return started[-1]

    yield start
    for call in started:
        call.join()
