"""What the libraries say: not every step, and during an outage not every attempt.

aiokafka writes a hundred lines a second while no broker answers, which would bury everything else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

LIBRARIES: Final = ("faust", "mode", "aiokafka", "penstock_retrain_trigger.faust_app")
"""Loggers that tell of each step of each of their parts; the last one is Faust in our classes."""
WINDOW_S: Final = 30.0


class OncePerWindow(logging.Filter):
    """Pass a library's line when its kind was last seen longer ago than a window.

    A kind is the logger and the message before its arguments are filled in. Lines of others, and
    critical ones, always pass.

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
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the line passes."""
        if record.levelno >= logging.CRITICAL or not record.name.startswith(LIBRARIES):
            return True
        kind = record.name, str(record.msg)[:100]
        now = self._clock()
        last = self._last.get(kind)
        if last is not None and now - last < self._window_s:
            return False
        self._last[kind] = now
        return True


def quieten(log_level: str) -> None:
    """Keep the libraries' steps out of the log, and thin out what they repeat.

    Parameters
    ----------
    log_level
        Least severe line that is logged; debug keeps everything.
    """
    if log_level == "debug":
        return
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    # A timer that is late is no news on a machine that is busy with serving.
    logging.getLogger("mode.timers").setLevel(logging.ERROR)
    thinned = OncePerWindow()
    for handler in logging.getLogger().handlers:
        handler.addFilter(thinned)
