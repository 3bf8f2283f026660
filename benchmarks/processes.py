"""Processes of a run: started with a log of their own, ended by SIGTERM, killed if that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from penstock_stack.endpoints import Endpoints

STOP_S: Final = 20.0
STACK_S: Final = 240.0
COMPONENTS: Final = ("kafka", "registry", "triton", "ray")
LOG_TAIL: Final = 1_500
ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

Pids = Callable[[], list[int]]


@contextmanager
def process(
    argv: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process for the time of the block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as sink:
        started = subprocess.Popen(
            argv,
            env={**os.environ, **environment},
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait(STOP_S)


def pids_of(process: subprocess.Popen[bytes], log: Path, more: Pids = list) -> Pids:
    """Return a way to ask for a contender's processes; it fails once the contender has ended."""

    def pids() -> list[int]:
        if process.poll() is not None:
            raise RuntimeError(f"exited with {process.returncode}: {tail(log)}")
        return [process.pid, *more()]

    return pids


def tail(log: Path) -> str:
    """Return the end of a log."""
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]


@contextmanager
def infrastructure(data_dir: Path, offset: int) -> Iterator[Endpoints]:
    """Run Kafka, registry, Triton and Ray for the time of the benchmark.

    Raises
    ------
    RuntimeError
        If it is not ready in time; with the end of its log.
    """
    log = data_dir / "stack.log"
    argv = [sys.executable, "-m", "penstock_stack", str(data_dir), str(offset), *COMPONENTS]
    with process(argv, {}, log) as stack:
        limit = time.monotonic() + STACK_S
        while "ready:" not in log.read_text(encoding="utf-8"):
            if stack.poll() is not None:
                raise RuntimeError(f"the stack exited with {stack.returncode}: {tail(log)}")
            if time.monotonic() > limit:
                raise RuntimeError(f"the stack is not ready in {STACK_S:.0f} s: {tail(log)}")
            time.sleep(0.1)
        yield Endpoints.from_environment(os.environ, offset)
