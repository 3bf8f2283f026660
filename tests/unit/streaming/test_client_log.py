"""A reconnect that fails every second is told once per window."""

from __future__ import annotations

import logging

from penstock_streaming.client_log import OncePerWindow, client_logger


def line(facility: str, client: str = "c") -> logging.LogRecord:
    return logging.LogRecord("k", logging.ERROR, "", 0, "%s [%s] %s", (facility, client, "x"), None)


def test_a_kind_passes_once_per_window() -> None:
    now = [0.0]
    gate = OncePerWindow(window_s=30.0, clock=lambda: now[0])
    assert gate.filter(line("FAIL"))
    assert not gate.filter(line("FAIL"))
    assert gate.filter(line("FAIL", client="d"))
    assert gate.filter(line("CONFWARN"))
    now[0] = 31.0
    assert gate.filter(line("FAIL"))


def test_the_filter_is_installed_once() -> None:
    client_logger()
    assert len([f for f in client_logger().filters if isinstance(f, OncePerWindow)]) == 1
