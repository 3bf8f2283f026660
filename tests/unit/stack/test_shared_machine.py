"""Stacks of tests that run at once must not meet."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from pathlib import Path

import pytest
from harness.stack import PORT_OFFSETS, a_stack_starts, claimed, ports_at


def test_no_port_belongs_to_two_offsets_or_to_outgoing_connections() -> None:
    ports = [port for offset in PORT_OFFSETS for port in ports_at(offset)]
    assert [port for port, n in Counter(ports).items() if n > 1] == []
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert max(ports) < int(ephemeral[0])


def test_an_offset_is_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert claimed(PORT_OFFSETS[0])
    assert not claimed(PORT_OFFSETS[0])
    assert claimed(PORT_OFFSETS[1])


def test_one_stack_starts_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    order: list[str] = []

    def second() -> None:
        with a_stack_starts():
            order.append("second")

    with a_stack_starts():
        waiting = threading.Thread(target=second)
        waiting.start()
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
