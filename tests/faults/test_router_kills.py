"""Router processes killed, stopped, frozen, added and removed: nothing lost, nothing twice."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from harness.fault_pipeline import FULL, FaultWindow, ServedPipeline, await_ready, in_lanes
from harness.faults import frozen
from harness.kills import LOOP_KILLS
from harness.services import BareRouter
from harness.waiting import Background, eventually

MakePipeline = Callable[..., ServedPipeline]
pytestmark = [pytest.mark.integration]

LEAVES_ABORTED_OUTPUTS = {"mid_produce", "after_flush"}
"""Places where outputs have reached the broker for certain and cannot be committed. Offsets may be
sent before the outputs of a short transaction are."""
QUICK_PLACES = ("mid_produce", "after_offsets", "during_commit")
LANES = 5
PACE = 1_000.0


@dataclass(frozen=True)
class Kill:
    """One round of F1: where the first router dies, of what seed, after how many events."""

    place: str
    seed: int
    events: int


def kill(pipeline: ServedPipeline, turn: Kill) -> None:
    """Have a router die at a place; its successor must leave the log as if nothing happened."""
    place = turn.place
    visit = random.Random(turn.seed).randint(1, 3)
    with FaultWindow(pipeline, f"F1 {place}:{visit}", turn.seed) as window:
        window.publish(turn.events)
        first = pipeline.start_router(f"{place}:{visit}")

        def is_dead() -> bool:
            """Give it more to do: what was published may be done before the last visit."""
            window.publish(50)
            return first.process.poll() is not None

        eventually(is_dead, 90, f"a kill at {place}:{visit}")
        assert first.wait(1) == -signal.SIGKILL
        window.ended(f"kill at {place}")
        second = pipeline.start_router()
        report = window.judge()
        assert second.stop() == 0
    if place in LEAVES_ABORTED_OUTPUTS:
        assert report.aborted.get("predictions", 0) > 0, f"{place} missed"


@pytest.mark.timeout(240)
def test_killed_in_a_transaction(make_pipeline: MakePipeline, seed: int) -> None:
    pipelines = [make_pipeline() for _ in QUICK_PLACES]
    pipelines[0].start_ingest(others=pipelines[1:])
    in_lanes(pipelines, [Kill(place, seed, 3_000) for place in QUICK_PLACES], kill)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_killed_at_every_place(make_pipeline: MakePipeline, seed: int) -> None:
    pipelines = [make_pipeline() for _ in range(LANES)]
    pipelines[0].start_ingest(others=pipelines[1:])
    seeds = [seed + n for n in range(20 if FULL else 5)]
    in_lanes(pipelines, [Kill(place, s, 20_000) for s in seeds for place in LOOP_KILLS], kill)


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_judge_sees_what_transactions_prevent(make_pipeline: MakePipeline, seed: int) -> None:
    """The same kill without transactions must be found out, or these tests prove nothing."""
    pipeline = make_pipeline()
    pipeline.start_ingest()
    with FaultWindow(pipeline, "F1 at least once", seed) as window:
        window.publish(3_000)
        first = pipeline.start_router("after_flush:1", delivery="at_least_once")
        assert first.wait(90) == -signal.SIGKILL
        second = pipeline.start_router(delivery="at_least_once")
        with pytest.raises(AssertionError, match="I2 no duplicate"):
            window.judge()
        assert second.stop() == 0


class Fleet:
    """Routers that come and go."""

    def __init__(self, pipeline: ServedPipeline, count: int) -> None:
        self.pipeline = pipeline
        self.routers: list[BareRouter] = []
        for _ in range(count):
            self.add()

    def replace(self, router: BareRouter) -> None:
        self.routers.remove(router)
        self.add()

    def add(self) -> None:
        # Outputs go to the broker at once, not with their commit: else a kill seldom finds any
        # there that are not committed.
        self.routers.append(self.pipeline.start_router(linger_s=0.0))

    def stop(self) -> None:
        for router in self.routers:
            assert router.stop() == 0


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_killed_at_random(
    make_pipeline: MakePipeline, seed: int, in_background: Background
) -> None:
    rng, chaos_s = random.Random(seed), 600.0 if FULL else 90.0
    # A transaction is open most of the time, so that kills find one.
    pipeline = make_pipeline(
        partitions=3, batching="{max_batch_rows: 400, commit_interval_ms: 500}"
    )
    pipeline.start_ingest()
    with FaultWindow(pipeline, "F2", seed) as window:
        fleet = Fleet(pipeline, 2)
        await_ready(fleet.routers)
        publishing = window.publishing(in_background, chaos_s, PACE)
        while window.age_s < chaos_s:
            pause(rng.uniform(3.0, 8.0))
            victim = rng.choice(fleet.routers)
            victim.process.kill()
            victim.wait()
            window.ended("kill -9")
            fleet.replace(victim)
        publishing.join()
        report = window.judge()
        fleet.stop()
    assert report.aborted.get("predictions", 0) > 0, "no kill bit"


def pause(seconds: float) -> None:
    """Let time pass between two faults."""
    threading.Event().wait(seconds)


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_sigterm_leaves_no_open_transaction(
    make_pipeline: MakePipeline, seed: int, in_background: Background
) -> None:
    rng, rounds = random.Random(seed), 8
    pipeline = make_pipeline()
    pipeline.start_ingest()
    with FaultWindow(pipeline, "F3", seed) as window:
        router = pipeline.started_router()
        publishing = window.publishing(in_background, rounds * 8.0, PACE)
        for _ in range(rounds):
            pause(rng.uniform(0.5, 2.0))
            assert router.stop() == 0
            eventually(
                lambda: not window.run.has_open_transaction("inference"),
                1.0,
                "no transaction is open",
                every_s=0.05,
            )
            window.ended("SIGTERM")
            router = pipeline.started_router()
        publishing.join()
        report = window.judge(counted=True)
        assert router.stop() == 0
    assert "I14 accounting" in report.held


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_zombie_that_wakes_after_a_minute_is_fenced(
    make_pipeline: MakePipeline, seed: int, in_background: Background
) -> None:
    frozen_s = 60.0
    pipeline = make_pipeline(batching="{max_batch_rows: 400, commit_interval_ms: 500}")
    pipeline.start_ingest()
    with FaultWindow(pipeline, "F4", seed) as window:
        zombie = pipeline.started_router()
        publishing = window.publishing(in_background, frozen_s + 20.0, PACE)
        eventually(
            lambda: window.run.has_open_transaction("inference"), 30, "it is in one", every_s=0.0
        )
        with frozen([zombie.pid]):
            heir = pipeline.started_router()
            pause(frozen_s)
        window.ended("SIGSTOP 60 s")
        publishing.join()
        window.judge()
        assert heir.stop() == 0
        assert zombie.stop() == 0


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_workers_come_and_go(
    make_pipeline: MakePipeline, seed: int, in_background: Background
) -> None:
    rng, chaos_s = random.Random(seed), 300.0 if FULL else 90.0
    pipeline = make_pipeline(partitions=3)
    pipeline.start_ingest()
    with FaultWindow(pipeline, "F17", seed) as window:
        fleet = Fleet(pipeline, 1)
        await_ready(fleet.routers)
        publishing = window.publishing(in_background, chaos_s, PACE)
        while window.age_s < chaos_s:
            if len(fleet.routers) < 2 or (len(fleet.routers) < 4 and rng.random() < 0.5):
                fleet.add()
            else:
                leaver = rng.choice(fleet.routers)
                fleet.routers.remove(leaver)
                leaver.process.kill() if rng.random() < 0.5 else leaver.stop()
                leaver.wait()
                window.ended("a worker left")
            pause(5.0)
        publishing.join()
        window.judge()
        fleet.stop()


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_partitions_grow_live(make_pipeline: MakePipeline, seed: int) -> None:
    pipeline = make_pipeline(partitions=2)
    pipeline.start_ingest()
    with FaultWindow(pipeline, "F20", seed) as window:
        router = pipeline.started_router()
        window.publish(2_000)
        pipeline.apply_topics(4)
        pipeline.connect()
        window.publish(3_000)  # some of it to partitions that neither service knows yet
        window.ended("partitions added")
        window.judge()
        used = {record.partition for record in window.run.records("predictions")}
        assert router.stop() == 0
    assert used == {0, 1, 2, 3}
