"""The retrain trigger as a process, on a real broker, registry and Ray; its job is a stand-in."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Producer
from harness.kafka import own_topics
from harness.kills import kill_job
from harness.models import write_folder
from harness.retrain import JOB_S, PREFIX, START_S, RayView, TriggerService
from harness.waiting import eventually, holds_for
from penstock_pipelines.loader import load_pipeline
from penstock_schemas.records import RetrainEvent

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="session")
def ray_jobs(request: pytest.FixtureRequest) -> tuple[RayView, Path]:
    """Return Ray's job interface and its token's file: as named for a test, else the stack's."""
    named = os.environ.get("PENSTOCK_TEST_RAY_JOBS"), os.environ.get("PENSTOCK_TEST_RAY_TOKEN")
    if named[0] and named[1]:
        url, token_path = named[0], Path(named[1])
    else:
        stack = request.getfixturevalue("stack")
        url, token_path = stack.component("ray")["endpoint"], stack.data_dir / "ray-token"
    return RayView(url.rstrip("/"), token_path.read_text().strip()), token_path


@pytest.fixture
def trigger(
    kafka_bootstrap: str, registry_url: str, ray_jobs: tuple[RayView, Path], tmp_path: Path
) -> Iterator[TriggerService]:
    name = f"trg{uuid.uuid4().hex[:8]}"
    folder = write_folder(tmp_path).rename(tmp_path / name)
    text = (folder / "pipeline.yaml").read_text().replace("pipeline: pumps", f"pipeline: {name}")
    (folder / "pipeline.yaml").write_text(f"{text}\nretrain: {{cooldown_s: 600}}\n")
    ray, token_path = ray_jobs
    made = TriggerService(kafka_bootstrap, registry_url, ray, token_path, folder)
    made.steering.mkdir()
    topics = load_pipeline(folder).config.topic_names.all(1)
    with own_topics(kafka_bootstrap, [t for t in topics if t.name == made.topic]):
        try:
            yield made
        finally:
            for process in made.started:
                process.end()
            for job, status in ray.jobs(name).items():
                if status in ("PENDING", "RUNNING"):
                    ray.call(f"{job}/stop", "POST")


def test_request_becomes_one_job_and_the_next_one_has_to_wait(trigger: TriggerService) -> None:
    trigger.start()
    trigger.wait_ready()
    first = trigger.ask()
    trigger.wait_state(first, "started")
    second = trigger.ask("drift")
    reason = trigger.wait_state(second, "suppressed").reason
    assert reason.startswith(f"in flight: request {first.request_id} is ")
    trigger.release()
    trigger.wait_state(first, "finished")
    eventually(lambda: set(trigger.ray.jobs(trigger.name).values()) == {"SUCCEEDED"}, JOB_S)
    third = trigger.ask("drift")
    fourth = trigger.ask("drift")
    trigger.wait_state(third, "finished")
    assert trigger.wait_state(fourth, "suppressed").reason.startswith("in flight")
    fifth = trigger.ask("drift")
    assert trigger.wait_state(fifth, "suppressed").reason.startswith("cooldown: 5")
    assert trigger.states(first) == ["requested", "accepted", "started", "finished"]
    assert [run[2] for run in trigger.runs()] == [first.request_id, third.request_id]
    assert {run[1] for run in trigger.runs()} == {"10"}, "the job does not stand back"
    metrics = trigger.get("/metrics")
    labels = f'pipeline="{trigger.name}"'
    assert (
        f'penstock_retrain_requests_total{{{labels},reason="cooldown",state="suppressed"}} 1.0'
        in (metrics)
    )
    assert f"penstock_retrain_in_flight{{{labels}}} 0.0" in metrics
    began = time.monotonic()
    assert trigger.stop() == 0
    assert time.monotonic() - began < 5
    assert not (trigger.folder.parent / "run").exists()
    left = {path.name for path in trigger.folder.parent.iterdir()}
    assert left == {trigger.name, "stand-in"}, "the service leaves something behind"


@pytest.mark.parametrize(
    "place", ["before_submit", pytest.param("after_submit", marks=pytest.mark.faults)]
)
def test_killed_around_the_submission_there_is_one_job(trigger: TriggerService, place: str) -> None:
    trigger.start(**kill_job(place))
    trigger.wait_ready()
    request = trigger.ask()
    assert trigger.process is not None
    assert trigger.process.wait(START_S) == -signal.SIGKILL
    assert trigger.states(request)[:2] == ["requested", "accepted"]
    if place == "before_submit":
        assert not trigger.ray.jobs(trigger.name), "the kill has missed"
    trigger.start()
    trigger.wait_state(request, "started")
    trigger.release()
    trigger.wait_state(request, "finished")
    assert trigger.states(request) == ["requested", "accepted", "started", "finished"]
    assert len(trigger.runs()) == 1


@pytest.mark.faults
def test_requests_made_while_the_trigger_is_down_are_decided_once(trigger: TriggerService) -> None:
    trigger.release()
    producer = Producer({"bootstrap.servers": trigger.bootstrap})
    for value in (b"junk", None, b"\x00\x00"):
        producer.produce(trigger.topic, value, trigger.name.encode(), 0)
    assert producer.flush(20) == 0
    trigger.write(RetrainEvent.request("foreign", "another", 0, "cli"))
    requests = [trigger.ask("drift") for _ in range(3)]
    trigger.write(*requests)  # a producer may repeat itself
    trigger.start()
    trigger.wait_state(requests[0], "finished")
    for request in requests[1:]:
        trigger.wait_state(request, "suppressed")
    unreadable = f'penstock_retrain_unreadable_total{{pipeline="{trigger.name}"}} 4.0'
    assert unreadable in trigger.get("/metrics")
    assert trigger.stop(signal.SIGKILL) == -signal.SIGKILL
    before = len(trigger.events())
    trigger.start()
    trigger.wait_ready()
    holds_for(lambda: len(trigger.events()) == before, 2, "a restart writes nothing anew")


@pytest.mark.faults
def test_trigger_killed_while_it_watches_goes_on_watching(trigger: TriggerService) -> None:
    trigger.start()
    trigger.wait_ready()
    request = trigger.ask()
    trigger.wait_state(request, "started")
    assert trigger.stop(signal.SIGKILL) == -signal.SIGKILL
    trigger.start()
    trigger.wait_ready()
    # Only who watches finds out that the job has died, and has it start again.
    pid = int(trigger.runs()[0][0])
    psutil.Process(pid).kill()
    eventually(lambda: len(trigger.runs()) == 2, JOB_S, "the job runs again")
    trigger.release()
    trigger.wait_state(request, "finished")
    expected = ["requested", "accepted", "started", "resubmitted", "finished"]
    # The stand-in repeats `started`, as a job that lost its memory would.
    states = [e.state for e in trigger.events() if e.request_id == request.request_id]
    assert states == [*expected[:4], "started", "finished"]
    again = [e for e in trigger.events() if e.event_id == f"{request.request_id}.resubmitted.2"]
    assert again[0].reason.startswith("submission 2 of 3: ")


@pytest.mark.faults
def test_job_that_keeps_failing_is_given_up(trigger: TriggerService) -> None:
    (trigger.steering / "exit").write_text("3")
    trigger.start(**{f"{PREFIX}MAX_SUBMISSIONS": "2"})
    request = trigger.ask()
    failed = trigger.wait_state(request, "failed")
    assert failed.reason == "no use: the stand-in was told to fail, after 2 submissions"
    assert len(trigger.runs()) == 2
    (trigger.steering / "exit").unlink()
    trigger.release()
    following = trigger.ask()
    trigger.wait_state(following, "finished")


def test_job_that_fails_for_good_is_not_tried_again(trigger: TriggerService) -> None:
    (trigger.steering / "exit").write_text("1")
    trigger.start()
    request = trigger.ask()
    failed = trigger.wait_state(request, "failed")
    assert failed.reason == "no use: the stand-in was told to fail"
    assert len(trigger.runs()) == 1


def test_cancelled_request_frees_the_slot_and_its_job_is_stopped(trigger: TriggerService) -> None:
    trigger.start(**{f"{PREFIX}JOB_LEAVE_S": "1"})
    trigger.wait_ready()
    request = trigger.ask()
    trigger.wait_state(request, "started")
    trigger.write(request.followed_by("cancelled", time.time_ns() // 1_000_000, reason="by test"))
    following = trigger.ask()
    trigger.wait_state(following, "started")
    statuses = trigger.ray.jobs(trigger.name)
    assert statuses[request.request_id] == "STOPPED"
    assert len(trigger.runs()) == 2
    trigger.release()
    trigger.wait_state(following, "finished")
    assert trigger.states(request) == ["requested", "accepted", "started", "cancelled"]


@pytest.mark.faults
def test_process_that_slept_through_its_successor_decides_nothing(trigger: TriggerService) -> None:
    trigger.start()
    trigger.wait_ready()
    sleeper = trigger.process
    assert sleeper is not None
    sleeper.send_signal(signal.SIGSTOP)
    trigger.release()
    request = trigger.ask()
    trigger.start()
    trigger.wait_state(request, "finished")
    waiting = trigger.ask("drift")
    assert trigger.process is not None
    trigger.wait_state(waiting, "finished")
    assert trigger.process.poll() is None
    sleeper.send_signal(signal.SIGCONT)
    last = trigger.ask("drift")
    assert trigger.wait_state(last, "suppressed").reason.startswith("cooldown")
    for each in (request, waiting, last):
        decided = [s for s in trigger.states(each) if s in ("accepted", "suppressed")]
        assert len(decided) == 1
