"""SIGINT and SIGTERM as an event."""

from __future__ import annotations

import signal
import threading
from _thread import start_new_thread
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event, so that stopping happens in one place.

    A thread of its own sets it: a handler runs wherever the main thread is, also where that holds
    the lock of the event it waits for.
    """
    interrupted = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    old = [
        signal.signal(number, lambda *_: start_new_thread(interrupted.set, ()))
        for number in numbers
    ]
    try:
        yield interrupted
    finally:
        for number, handler in zip(numbers, old, strict=True):
            signal.signal(number, handler)
