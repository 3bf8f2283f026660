from __future__ import annotations

import logging

import pytest
from penstock_retrain_trigger.faust_app import logger_and_message
from penstock_streaming.settings import OncePerWindow


def record(name: str, text: str, *values: object, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, text, values, None)


def test_repeated_line_of_a_library_passes_once_per_window() -> None:
    now = 0.0
    thinned = OncePerWindow(logger_and_message, 30.0, clock=lambda: now)
    lines = [record("aiokafka.client", "no node %s", number) for number in range(100)]
    assert [thinned.filter(line) for line in lines] == [True] + [False] * 99
    assert thinned.filter(record("aiokafka.client", "other %s", 1))
    assert thinned.filter(record("aiokafka.consumer", "no node %s", 1))
    now = 31.0
    assert thinned.filter(lines[0])


@pytest.mark.parametrize(
    "line",
    [
        record("penstock_retrain_trigger.retrain_log", "request is %s", "accepted"),
        record("aiokafka", "lost %s", 1, level=logging.CRITICAL),
    ],
)
def test_our_lines_and_critical_ones_always_pass(line: logging.LogRecord) -> None:
    thinned = OncePerWindow(logger_and_message, 30.0, clock=lambda: 0.0)
    assert all(thinned.filter(line) for _ in range(5))
