"""Ingest killed at every place of a batch: its outputs and its state as if nothing had happened."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from harness.fault_pipeline import FULL, FaultWindow, ServedPipeline, in_lanes
from harness.kills import LOOP_KILLS, kill_loop

pytestmark = [pytest.mark.integration, pytest.mark.faults]

LEAVES_ABORTED_OUTPUTS = {"mid_produce", "after_flush", "after_offsets"}
EVENTS = 20_000 if FULL else 5_000
LANES = 2


@dataclass(frozen=True)
class Kill:
    """One round: where the first ingest dies, at which visit, and the seed of the events."""

    place: str
    visit: int
    seed: int


@pytest.mark.timeout(1200)
def test_ingest_killed_at_every_place(
    make_pipeline: Callable[..., ServedPipeline], seed: int
) -> None:
    rng = random.Random(seed)
    pipelines = [make_pipeline() for _ in range(LANES)]
    routers = [pipeline.started_router() for pipeline in pipelines]
    turns = [Kill(place, rng.randint(1, 3), seed + n) for n, place in enumerate(LOOP_KILLS)]
    in_lanes(pipelines, turns, kill)
    assert [router.stop() for router in routers] == [0] * LANES


def kill(pipeline: ServedPipeline, turn: Kill) -> None:
    """Have ingest die at a place; its successor must leave the log as if nothing happened."""
    place = f"{turn.place}:{turn.visit}"
    with FaultWindow(pipeline, f"F1 ingest {place}", turn.seed) as window:
        window.publish(EVENTS)
        first = pipeline.start_ingest(**kill_loop("PENSTOCK_INGEST_", place))
        assert first.wait(90) == -signal.SIGKILL
        window.ended(f"kill at {turn.place}")
        second = pipeline.start_ingest()
        report = window.judge()
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0
    if turn.place in LEAVES_ABORTED_OUTPUTS:
        assert report.aborted.get("features", 0) > 0, f"{turn.place} missed"
