"""What the libraries say: not every step, and during an outage not every attempt.

aiokafka writes a hundred lines a second while no broker answers, which would bury everything else.
"""

from __future__ import annotations

import logging
from typing import Final

from penstock_streaming.settings import OncePerWindow

LIBRARIES: Final = ("faust", "mode", "aiokafka", "penstock_retrain_trigger.faust_app")
"""Loggers that tell of each step of each of their parts; the last one is Faust in our classes."""


def logger_and_message(record: logging.LogRecord) -> object:
    """Return a library's logger and the message before its arguments are filled in."""
    if not record.name.startswith(LIBRARIES):
        return None
    return record.name, str(record.msg)[:100]


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
    thinned = OncePerWindow(logger_and_message)
    for handler in logging.getLogger().handlers:
        handler.addFilter(thinned)
