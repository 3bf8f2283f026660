"""What the inference service of a run tells of itself, at its port of metrics."""

from __future__ import annotations

import json
import math
import time
from typing import Any, Final

from penstock_stack.probes import body
from processes import Pids
from prometheus_client.parser import text_string_to_metric_families

START_S: Final = 120.0
ANSWER_S: Final = 5.0


def replicas(port: int) -> list[int]:
    """Return the processes of the routers."""
    return [row["pid"] for row in _rows(port)]


def await_ready(port: int, alive: Pids) -> None:
    """Wait until a router takes records.

    Raises
    ------
    RuntimeError
        If none does in time, or the service ends.
    """
    limit = time.monotonic() + START_S
    while not any(row["ready"] for row in _rows(port)):
        alive()
        if time.monotonic() > limit:
            raise RuntimeError(f"no router is ready within {START_S:.0f} s")
        time.sleep(0.1)


def batch_fill(port: int) -> float:
    """Return the mean fill of the batches that went to the model."""
    sums: dict[str, Any] = {}
    text = (body(port, "/metrics", ANSWER_S) or b"").decode()
    for family in text_string_to_metric_families(text):
        if family.name == "penstock_batch_fill_ratio":
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    batches = sums.get("penstock_batch_fill_ratio_count", 0)
    return sums["penstock_batch_fill_ratio_sum"] / batches if batches else math.nan


def _rows(port: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(body(port, "/replicas", ANSWER_S) or b"[]")
    return rows
