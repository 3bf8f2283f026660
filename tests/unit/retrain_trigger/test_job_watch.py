from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from penstock_pipelines.model import Retrain
from penstock_retrain_trigger.decisions import Decisions
from penstock_retrain_trigger.job_watch import JobWatch
from penstock_retrain_trigger.launcher import RayJobs
from penstock_retrain_trigger.metrics import TriggerFamilies, TriggerMetrics
from penstock_retrain_trigger.settings import TriggerSettings
from penstock_schemas.errors import BrokerUnavailable
from penstock_schemas.records import RetrainEvent
from prometheus_client import CollectorRegistry


class MemoryLog:
    """The topic as one process sees it.

    Parameters
    ----------
    topic_records
        Shared by all processes.
    """

    topic = "p.retrain.v1"

    def __init__(self, topic_records: list[RetrainEvent]) -> None:
        self._records = topic_records
        self._next = 0
        self.is_open = False
        self.opened = 0
        self.fails: list[str] = []
        """How the next writes fail: lost before they are in the topic, or unknown after."""

    async def open(self) -> None:
        self.is_open = True
        self.opened += 1

    async def read(self, on_event: Callable[[int, RetrainEvent], None], _: object) -> None:
        for offset in range(self._next, len(self._records)):
            on_event(offset, self._records[offset])
        self._next = len(self._records)

    async def write(self, event: RetrainEvent) -> int:
        assert self.is_open
        fails = self.fails.pop(0) if self.fails else ""
        if fails != "lost":
            self._records.append(event)
        if fails:
            self.is_open = False
            raise BrokerUnavailable("no answer")
        return len(self._records) - 1

    async def close(self) -> None:
        self.is_open = False


@dataclass
class Trigger:
    """A process of the trigger with a clock that a test moves."""

    topic: list[RetrainEvent]
    ray: Any
    token_path: Path
    now_s: float = 0.0
    policy: Retrain = field(default_factory=lambda: Retrain(cooldown_s=0))

    def __post_init__(self) -> None:
        self.log = MemoryLog(self.topic)
        self.jobs = RayJobs(self.ray.url, self.token_path, 1.0)
        metrics = TriggerMetrics(TriggerFamilies(CollectorRegistry()), "p")
        clock = lambda: self.now_s  # noqa: E731
        self.decisions = Decisions(self.log, self.policy, metrics, lambda: int(self.now_s * 1000))
        settings = TriggerSettings.model_validate({"resubmit_wait_s": 10, "job_leave_s": 30})
        self.watch = JobWatch(settings, Path("p"), self.decisions, self.jobs, metrics, clock)

    async def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, then do what a turn of the timer does."""
        self.now_s += seconds
        await self.decisions.open()
        await self.decisions.refresh()
        await self.decisions.decide()
        await self.watch.look()

    def ask(self, name: str = "r1", source: str = "cli") -> RetrainEvent:
        event = RetrainEvent.request(name, "p", int(self.now_s * 1000), source)
        self.topic.append(event)
        return event

    def ids(self) -> list[str]:
        return [event.event_id for event in self.topic]


Scene = Callable[[Callable[[], Trigger]], Awaitable[None]]


@pytest.fixture
def play(ray: Any, token_path: Path) -> Callable[[Scene], None]:
    """Return a function that plays a scene; it gets a maker of processes on one topic."""

    def run(scene: Scene) -> None:
        async def all_of_it() -> None:
            topic: list[RetrainEvent] = []
            made: list[Trigger] = []
            async with ray.serve():

                def start() -> Trigger:
                    made.append(Trigger(topic, ray, token_path))
                    return made[-1]

                try:
                    await scene(start)
                finally:
                    for trigger in made:
                        await trigger.jobs.close()

        asyncio.run(all_of_it())

    return run


def test_decision_is_in_the_topic_before_the_job_is_on_ray(play: Any, ray: Any) -> None:
    async def scene(start: Any) -> None:
        trigger = start()
        trigger.ask()
        trigger.log.fails = ["lost"]
        await trigger.decisions.open()
        await trigger.decisions.refresh()
        with pytest.raises(BrokerUnavailable):
            await trigger.decisions.decide()
        await trigger.watch.look()
        assert not ray.submitted
        await trigger.turn()
        assert trigger.ids() == ["r1", "r1.accepted"]
        assert [body["submission_id"] for body in ray.submitted] == ["r1"]

    play(scene)


def test_decision_of_unknown_outcome_is_not_written_twice(play: Any) -> None:
    async def scene(start: Any) -> None:
        trigger = start()
        trigger.ask()
        trigger.log.fails = ["unknown"]
        with pytest.raises(BrokerUnavailable):
            await trigger.turn()
        await trigger.turn()
        assert trigger.ids() == ["r1", "r1.accepted"]
        assert trigger.log.opened == 2, "the log must be fenced and read anew"

    play(scene)


def test_ray_away_costs_no_decision_and_no_second_job(play: Any, ray: Any) -> None:
    async def scene(start: Any) -> None:
        trigger = start()
        ray.broken = 500
        trigger.ask()
        for _ in range(5):
            await trigger.turn(0.1)
        calls = len(ray.calls)
        assert calls == 1, "it is asked again before the pause is over"
        ray.broken = None
        await trigger.turn(60)
        await trigger.turn(1)
        assert trigger.ids() == ["r1", "r1.accepted"]
        assert len(ray.submitted) == 1

    play(scene)


def test_lost_jobs_are_submitted_again_until_the_last_time(play: Any, ray: Any) -> None:
    async def scene(start: Any) -> None:
        trigger = start()
        trigger.ask()
        await trigger.turn()
        for _ in range(3):
            ray.jobs.clear()  # the head node starts anew
            await trigger.turn(0.1)
            assert not ray.jobs, "no pause before the next submission"
            await trigger.turn(41)
            await trigger.turn(0.1)
        assert trigger.ids() == [
            "r1",
            "r1.accepted",
            "r1.resubmitted.2",
            "r1.resubmitted.3",
            "r1.failed",
        ]
        assert trigger.topic[-1].reason == "Ray has lost the job, after 3 submissions"
        assert [b["metadata"]["penstock.submission"] for b in ray.submitted] == ["1", "2", "3"]
        assert ray.most_running == 1

    play(scene)


def test_restart_neither_forgets_nor_repeats_a_submission(play: Any, ray: Any) -> None:
    async def scene(start: Any) -> None:
        first = start()
        first.ask()
        await first.turn()
        ray.end("r1", "FAILED", 3, "MLflow is away")
        await first.turn()
        first.log.fails = ["unknown"]  # killed with the order written and nothing submitted
        first.now_s += 11
        await first.watch.look()
        second = start()
        await second.turn()
        assert second.ids() == ["r1", "r1.accepted", "r1.resubmitted.2"]
        assert ray.submitted[-1]["metadata"] == {"penstock.submission": "2"}
        third = start()
        await third.turn()
        await third.turn(100)
        assert len(ray.submitted) == 2
        assert third.ids()[-1] == "r1.resubmitted.2"

    play(scene)


def test_end_that_the_consumer_has_not_brought_yet_is_seen(play: Any, ray: Any) -> None:
    async def scene(start: Any) -> None:
        trigger = start()
        asked = trigger.ask()
        await trigger.turn()
        ray.end("r1", "SUCCEEDED", 0)
        await trigger.watch.look()
        trigger.topic.append(asked.followed_by("finished", 1, verdict="rejected"))
        trigger.now_s += 11
        await trigger.watch.look()
        assert trigger.ids() == ["r1", "r1.accepted", "r1.finished"]

    play(scene)


@pytest.mark.parametrize("end", ["finished", "cancelled"])
def test_next_job_waits_until_the_last_one_is_gone(play: Any, ray: Any, end: str) -> None:
    async def scene(start: Any) -> None:
        trigger = start()
        asked = trigger.ask()
        await trigger.turn()
        trigger.topic.append(asked.followed_by(end, 1))
        trigger.ask("r2")
        await trigger.turn()
        assert trigger.ids()[-1] == "r2.accepted", "the slot is free at once"
        await trigger.turn(29)
        assert not ray.stopped
        assert len(ray.submitted) == 1
        await trigger.turn(1)
        assert ray.stopped == ["r1"]
        ray.end("r1", "STOPPED")
        await trigger.turn()
        await trigger.turn()
        assert [body["submission_id"] for body in ray.submitted] == ["r1", "r2"]
        assert ray.most_running == 1

    play(scene)


def test_restart_sees_the_job_of_a_cancelled_request_out(play: Any, ray: Any) -> None:
    async def scene(start: Any) -> None:
        first = start()
        asked = first.ask()
        await first.turn()
        first.topic.append(asked.followed_by("started", 1))
        first.topic.append(asked.followed_by("cancelled", 2))
        later = first.ask("r2")  # accepted and cancelled while the first one still runs
        await first.turn()
        first.topic.append(later.followed_by("cancelled", 3))
        second = start()
        second.ask("r3")
        await second.turn()
        assert len(ray.submitted) == 1
        ray.end("r1", "FAILED", 1)
        for _ in range(3):
            await second.turn()
        assert [body["submission_id"] for body in ray.submitted] == ["r1", "r3"]

    play(scene)


def test_idle_trigger_leaves_ray_alone(play: Any, ray: Any) -> None:
    async def scene(start: Any) -> None:
        trigger = start()
        asked = trigger.ask()
        await trigger.turn()
        trigger.topic.append(asked.followed_by("finished", 1))
        ray.end("r1", "SUCCEEDED", 0)
        await trigger.turn()
        calls = len(ray.calls)
        for _ in range(10):
            await trigger.turn(1)
        assert len(ray.calls) == calls

    play(scene)


def test_storm_gives_each_request_one_decision(play: Any, ray: Any) -> None:
    async def scene(start: Any) -> None:
        trigger = start()
        for number in range(100):
            trigger.ask(f"r{number}", "drift")
        trigger.log.fails = ["", "lost", "", "unknown"]
        for _ in range(3):
            try:
                await trigger.turn()
            except BrokerUnavailable:
                continue
        decided = [e for e in trigger.topic if e.state in ("accepted", "suppressed")]
        assert [e.request_id for e in decided] == [f"r{n}" for n in range(100)]
        assert [e.state for e in decided].count("accepted") == 1
        assert all(e.reason for e in decided if e.state == "suppressed")
        assert len(ray.submitted) == 1

    play(scene)
