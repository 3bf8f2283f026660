"""Calls in threads whose failures are not lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
