"""Ingest killed at every place of a batch: its outputs and its state as if nothing had happened."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest
from harness.fault_window import FULL, FaultWindow
from harness.fault_world import FaultWorld
from penstock_streaming.fail_points import FAIL_POINTS

pytestmark = [pytest.mark.integration, pytest.mark.faults]

LEAVES_ABORTED_OUTPUTS = {"mid_produce", "after_flush", "after_offsets"}
EVENTS = 20_000 if FULL else 5_000


@pytest.mark.timeout(1200)
def test_ingest_killed_at_every_place(make_world: Callable[..., FaultWorld], seed: int) -> None:
    rng = random.Random(seed)
    world = make_world()
    router = world.started_router()
    for number, place in enumerate(FAIL_POINTS):
        visit = rng.randint(1, 3)
        with FaultWindow(world, f"F1 ingest {place}:{visit}", seed + number) as window:
            window.publish(EVENTS)
            first = world.start_ingest(PENSTOCK_FAIL_POINT=f"{place}:{visit}")
            assert first.wait(90) == -signal.SIGKILL
            window.ended(f"kill at {place}")
            second = world.start_ingest()
            report = window.judge()
            second.send_signal(signal.SIGTERM)
            assert second.wait(30) == 0
        if place in LEAVES_ABORTED_OUTPUTS:
            assert report.aborted.get("features", 0) > 0, f"{place} missed"
    assert router.stop() == 0
