"""What the services of a run tell of themselves in their run folder."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Final

from penstock_inference.replicas import METRICS, live_replicas
from penstock_service.metrics import multiprocess_exposition
from processes import Pids
from prometheus_client.parser import text_string_to_metric_families

START_S: Final = 120.0


def replicas(run_dir: Path) -> list[int]:
    """Return the processes of the routers, living or not."""
    return [int(f.stem) for f in (run_dir / "inference-replicas").glob("*.json")]


def await_ready(run_dir: Path, alive: Pids) -> None:
    """Wait until a router takes records.

    Raises
    ------
    RuntimeError
        If none does in time, or the service ends.
    """
    limit = time.monotonic() + START_S
    while not any(facts.ready for facts in live_replicas(run_dir)[0]):
        alive()
        if time.monotonic() > limit:
            raise RuntimeError(f"no router is ready within {START_S:.0f} s")
        time.sleep(0.1)


def batch_fill(run_dir: Path) -> float:
    """Return the mean fill of the batches that went to the model."""
    sums: dict[str, Any] = {}
    text = multiprocess_exposition(run_dir / METRICS).decode()
    for family in text_string_to_metric_families(text):
        if family.name == "penstock_batch_fill_ratio":
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    batches = sums.get("penstock_batch_fill_ratio_count", 0)
    return sums["penstock_batch_fill_ratio_sum"] / batches if batches else math.nan
