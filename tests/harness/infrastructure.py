"""The real infrastructure without the services, for tests that start what they need of these."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harness.child import child
from harness.stack import Stack, is_setting
from harness.waiting import eventually

START_S: Final = 120.0


@contextmanager
def infrastructure(data_dir: Path, offset: int, *names: str) -> Iterator[Stack]:
    """Run the named components for the time of the block, all by default; wait until ready.

    Kafka, the registry, Triton, Ray and MLflow.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir / "infrastructure.txt"
    own = {name: value for name, value in os.environ.items() if not is_setting(name)}
    command = [sys.executable, "-m", "penstock_stack", str(data_dir), str(offset), *names]
    with child(command, own, log):
        eventually(lambda: "ready:" in log.read_text(), START_S, "the infrastructure is up")
        yield Stack(data_dir)
