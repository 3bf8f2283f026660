"""Calls in threads whose failures are not lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

JOIN_S = 180.0
Background = Callable[[Callable[[], object]], Callable[[], None]]
"""Starts a call in a thread; what it returns waits for the end and raises what the call raised."""


@contextmanager
def background_calls() -> Iterator[Background]:
    """Yield a `Background`; at the end every call has ended."""
    joins: list[Callable[[], None]] = []

    def start(call: Callable[[], object]) -> Callable[[], None]:
        failed: list[BaseException] = []

        def run() -> None:
            try:
                call()
            except BaseException as exc:  # raised again by join
                failed.append(exc)

        def join() -> None:
            thread.join(JOIN_S)
            assert not thread.is_alive(), "the background call did not end"
            if failed:
                raise failed.pop()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        joins.append(join)
        return join

    yield start
    for join in joins:
        join()
