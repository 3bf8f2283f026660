"""What the metrics of all services share: buckets, and one exposition for several processes.

Metrics themselves are declared where they are counted, in each service's own ``metrics.py``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

LATENCY_BUCKETS: Final = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds of every latency histogram, seconds."""


def prepare_multiprocess(directory: Path) -> None:
    """Make the folder of the processes' metric files, empty.

    Call it once, before any process of the service starts with ``PROMETHEUS_MULTIPROC_DIR`` set to
    it: the client library reads that variable when it is imported.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for file in directory.glob("*.db"):
        file.unlink(missing_ok=True)


def multiprocess_exposition(directory: Path) -> bytes:
    """Return the metrics of all processes that write into a folder, aggregated, as text.

    Counters and histograms of dead processes still count: their files are kept, so that nothing
    goes down when a replica is replaced. Gauges of dead processes are dropped; for that a gauge
    needs a mode that begins with ``live``, such as ``livesum`` or ``livemostrecent``.

    Parameters
    ----------
    directory
        The processes' ``PROMETHEUS_MULTIPROC_DIR``.

    Raises
    ------
    ValueError
        If there is no such folder.
    """
    for pid in _dead_writers(directory):
        mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _dead_writers(directory: Path) -> Iterator[int]:
    """Yield the ids of ended processes that left live gauges behind."""
    pids = {file.stem.rpartition("_")[2] for file in directory.glob("gauge_live*_*.db")}
    for pid in pids:
        if pid.isdecimal() and not _is_alive(int(pid)):
            yield int(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's: alive
        return True
    return True
