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


class OncePerWindow(logging.Filter):
    """Pass a line when its kind was last seen longer ago than a window.

    A kind is the client's name and librdkafka's facility, such as ``FAIL``. Critical lines always
    pass.

    Parameters
    ----------
    window_s
        Seconds between two lines of a kind.
    clock
        Monotonic seconds.
    """

    def __init__(
        self, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._window_s = window_s
        self._clock = clock
        self._last: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the line passes."""
        if record.levelno >= logging.CRITICAL or not isinstance(record.args, tuple):
            return True
        kind = record.args[:2]
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
