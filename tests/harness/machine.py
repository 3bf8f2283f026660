"""What runs of the suite that share a machine must not take from each other."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harness.waiting import eventually
from penstock_stack.endpoints import HOST, Endpoints

PORT_OFFSETS: Final = range(15_000, 22_300, 808)
"""No port of one is a port of another, and all lie below the ports of outgoing connections."""
TURN_S: Final = 300.0


def free_offset() -> int:
    """Return an offset at which no port of a stack is taken, so that two runs share a machine.

    It is this process's until it ends: its ports are still free when another looks at them.
    """
    for offset in PORT_OFFSETS:
        if claimed(offset) and not any(taken(port) for port in ports_at(offset)):
            return offset
    raise RuntimeError(f"every offset of {PORT_OFFSETS} is claimed or has a taken port")


def ports_at(offset: int) -> set[int]:
    """Return every port that a stack at an offset may bind."""
    endpoints = Endpoints.from_environment({}, offset)
    return {port for name in endpoints.ports for port in endpoints.span(name)}


def claimed(offset: int) -> bool:
    """Tell whether an offset is this process's now; no other gets it while the process lives."""
    try:
        _locked(f"offset-{offset}")
    except BlockingIOError:
        return False
    return True


def taken(port: int) -> bool:
    """Tell whether something listens on a local port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@contextmanager
def a_stack_starts() -> Iterator[None]:
    """Wait until no other run starts a stack: on two cores two take four times as long as one."""
    lock = eventually(lambda: _locked("start"), TURN_S, "another run's stack has started")
    try:
        yield
    finally:
        os.close(lock)


def _locked(what: str) -> int:
    """Return an open file that is locked until it is closed.

    Raises
    ------
    BlockingIOError
        If another has it locked.
    """
    file = os.open(Path(tempfile.gettempdir(), f"penstock-test-{what}"), os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    return file
