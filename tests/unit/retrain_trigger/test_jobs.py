"""The jobs on Ray, and what follows for each, against a tiny server of Ray's interface."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from penstock_pipelines.model import Retrain
from penstock_retrain_trigger.jobs import JobsUnavailable, JobWatch, RayJobs, job_request
from penstock_retrain_trigger.metrics import TriggerFamilies, TriggerMetrics
from penstock_retrain_trigger.resubmission import Job
from penstock_retrain_trigger.retrain_log import Decisions
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
        await self.watch.check_jobs()

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
        await trigger.watch.check_jobs()
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
        await first.watch.check_jobs()
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
        await trigger.watch.check_jobs()
        trigger.topic.append(asked.followed_by("finished", 1, verdict="rejected"))
        trigger.now_s += 11
        await trigger.watch.check_jobs()
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


Steps = Callable[[RayJobs], Awaitable[Any]]
Run = Callable[[Steps], Any]


@pytest.fixture
def run(ray: Any, token_path: Path) -> Run:
    """Return a function that runs steps against the server."""

    def go(steps: Steps) -> Any:
        async def all_of_it() -> Any:
            async with ray.serve():
                jobs = RayJobs(ray.url, token_path, 0.5)
                try:
                    return await steps(jobs)
                finally:
                    await jobs.close()

        return asyncio.run(all_of_it())

    return go


def body(name: str = "r1", submission: int = 1) -> dict[str, Any]:
    return job_request(TriggerSettings(), name, Path("/p/fraud"), submission)


def test_entry_point_is_a_command_line_of_the_job() -> None:
    settings = TriggerSettings.model_validate(
        {"job_python": "/venv/bin/python", "mlflow_url": "http://m", "models_dir": "/models"}
    )
    request = job_request(settings, "r1", Path("/pipelines/with space"), 2)
    words = shlex.split(request["entrypoint"])
    assert words[:7] == [
        "exec", "nice", "-n", "10", "/venv/bin/python", "-m", "penstock_training_job",
    ]  # fmt: skip
    given = dict(zip(words[7::2], words[8::2], strict=True))
    assert given["--request-id"] == "r1"
    assert given["--pipeline-dir"] == "/pipelines/with space"
    assert set(given) == {
        f"--{name}"
        for name in (
            "request-id", "pipeline-dir", "kafka", "registry", "mlflow", "triton-grpc",
            "models-dir",
        )
    }  # fmt: skip
    assert request["metadata"] == {"penstock.submission": "2"}
    assert "runtime_env" not in request


def test_variables_of_the_job_are_secret_in_settings_and_plain_for_ray() -> None:
    settings = TriggerSettings.model_validate(
        {"job_environment": {"TOKEN": "x"}, "job_niceness": 0}
    )
    assert "'x'" not in repr(settings)
    request = job_request(settings, "r1", Path("/p"), 1)
    assert request["runtime_env"] == {"env_vars": {"TOKEN": "x"}}
    assert "nice" not in request["entrypoint"]


def test_submitting_twice_gives_one_job(run: Run, ray: Any) -> None:
    async def twice(jobs: RayJobs) -> list[bool]:
        return [await jobs.submit(body()), await jobs.submit(body())]

    assert run(twice) == [True, False]
    assert len(ray.submitted) == 1


def test_job_is_found_with_its_submission_and_its_last_words(run: Run, ray: Any) -> None:
    async def steps(jobs: RayJobs) -> list[Job | None]:
        before = await jobs.find("r1")
        await jobs.submit(body(submission=2))
        during = await jobs.find("r1")
        ray.end("r1", "FAILED", 3, "logs:\nMLflow is away")
        return [before, during, await jobs.find("r1")]

    assert run(steps) == [
        None, Job("RUNNING", 2), Job("FAILED", 2, 3, "logs:\nMLflow is away"),
    ]  # fmt: skip


def test_job_of_another_hand_counts_as_the_first_submission(run: Run, ray: Any) -> None:
    ray.jobs["r1"] = {"status": "RUNNING", "metadata": None, "submission_id": "r1"}
    assert run(lambda jobs: jobs.find("r1")) == Job("RUNNING", 1)


def test_stop_and_delete_of_an_unknown_job_are_fine(run: Run) -> None:
    async def steps(jobs: RayJobs) -> None:
        await jobs.stop("gone")
        await jobs.delete("gone")

    run(steps)


def test_delete_of_a_running_job_is_refused(run: Run) -> None:
    async def steps(jobs: RayJobs) -> None:
        await jobs.submit(body())
        await jobs.delete("r1")

    with pytest.raises(JobsUnavailable, match="non-terminal"):
        run(steps)


@pytest.mark.parametrize("status", [404, 500, 503, 302])
def test_ray_that_is_not_itself_says_nothing_about_jobs(run: Run, ray: Any, status: int) -> None:
    ray.broken = status
    for steps in (lambda jobs: jobs.find("r1"), lambda jobs: jobs.submit(body())):
        with pytest.raises(JobsUnavailable):
            run(steps)


def test_hanging_ray_is_waited_for_no_longer_than_the_timeout(run: Run, ray: Any) -> None:
    ray.hangs = True
    with pytest.raises(JobsUnavailable, match="Timeout"):
        run(lambda jobs: jobs.find("r1"))


def test_refused_token_is_named_and_read_again(run: Run, ray: Any, token_path: Path) -> None:
    good = token_path.read_text()

    async def steps(jobs: RayJobs) -> None:
        token_path.write_text("old")
        with pytest.raises(JobsUnavailable, match="refuses our token"):
            await jobs.find("r1")
        token_path.unlink()
        with pytest.raises(JobsUnavailable, match="FileNotFoundError"):
            await jobs.find("r1")
        token_path.write_text(good)
        assert await jobs.find("r1") is None

    run(steps)


def test_nobody_there_is_an_outage() -> None:
    async def steps() -> None:
        jobs = RayJobs("http://127.0.0.1:9", None, 0.5)
        try:
            await jobs.find("r1")
        finally:
            await jobs.close()

    with pytest.raises(JobsUnavailable):
        asyncio.run(steps())
