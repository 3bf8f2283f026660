"""Where the Kafka client's own log lines go.

librdkafka writes a line per failed reconnect of every connection; an outage of minutes would bury
everything else. Each kind of line of each client passes once per window.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LOGGER_NAME = "penstock.kafka"
WINDOW_S = 30.0


def client_and_facility(record: logging.LogRecord) -> object:
    """Return the client's name and librdkafka's facility, such as ``FAIL``."""
    return record.args[:2] if isinstance(record.args, tuple) else None


class OncePerWindow(logging.Filter):
    """Pass a line when its kind was last seen longer ago than a window; critical lines always.

    Parameters
    ----------
    kind
        Returns what makes a line the same as another one; None lets it pass.
    window_s
        Seconds between two lines of a kind.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        kind: Callable[[logging.LogRecord], object] = client_and_facility,
        window_s: float = WINDOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._kind = kind
        self._window_s = window_s
        self._clock = clock
        self._last: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the line passes."""
        kind = self._kind(record)
        if record.levelno >= logging.CRITICAL or kind is None:
            return True
        now = self._clock()
        last = self._last.get(kind)
        if last is not None and now - last < self._window_s:
            return False
        self._last[kind] = now
        return True


def client_logger() -> logging.Logger:
    """Return the logger handed to every Kafka client, with the filter installed once."""
    logger = logging.getLogger(LOGGER_NAME)
    if not any(isinstance(f, OncePerWindow) for f in logger.filters):
        logger.addFilter(OncePerWindow())
    return logger
