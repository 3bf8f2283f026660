"""Processes of a test's own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

STOP_S: Final = 40.0


@contextmanager
def child(argv: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """Run a process that ends on SIGTERM for the time of the block, with its output in a file."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield
        except BaseException:
            print(log.read_text(errors="replace")[-4_000:])  # noqa: T201 - shown with the failure
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_S)
