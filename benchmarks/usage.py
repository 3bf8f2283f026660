"""What processes and their children use; cheap enough to be asked ten times a second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import psutil

LOOK_FOR_CHILDREN_S: Final = 1.0
"""Between two walks over all processes of the host, which cost milliseconds."""


class Usage:
    """CPU and memory of a contender's processes."""

    def __init__(self) -> None:
        self._pids: list[int] = []
        self._processes: list[psutil.Process] = []
        self._looked_at_s = 0.0

    def of(self, pids: Sequence[int]) -> tuple[float, float]:
        """Return CPU seconds, user and system, and resident bytes; what is gone counts nothing."""
        now = time.monotonic()
        if list(pids) != self._pids or now - self._looked_at_s > LOOK_FOR_CHILDREN_S:
            self._pids, self._looked_at_s = list(pids), now
            self._processes = [p for pid in pids for p in _family(pid)]
        cpu = rss = 0.0
        for process in self._processes:
            try:
                times = process.cpu_times()
                cpu += times.user + times.system
                rss += process.memory_info().rss
            except psutil.Error:
                continue
        return cpu, rss


def _family(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []
