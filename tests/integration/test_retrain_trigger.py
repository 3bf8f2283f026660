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
from confluent_kafka.admin import AdminClient, NewTopic
from harness.kills import kill_job
from harness.models import write_folder
from harness.retrain import JOB_S, PREFIX, START_S, RayView, RetrainWorld
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
def world(
    kafka_bootstrap: str, registry_url: str, ray_jobs: tuple[RayView, Path], tmp_path: Path
) -> Iterator[RetrainWorld]:
    name = f"trg{uuid.uuid4().hex[:8]}"
    folder = write_folder(tmp_path).rename(tmp_path / name)
    text = (folder / "pipeline.yaml").read_text().replace("pipeline: pumps", f"pipeline: {name}")
    (folder / "pipeline.yaml").write_text(f"{text}\nretrain: {{cooldown_s: 600}}\n")
    ray, token_path = ray_jobs
    made = RetrainWorld(kafka_bootstrap, registry_url, ray, token_path, folder)
    made.steering.mkdir()
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    topics = load_pipeline(folder).config.topic_names.all(1)
    new = next(t for t in topics if t.name == made.topic)
    admin.create_topics([NewTopic(new.name, 1, 1, config=new.config)])[new.name].result(30)
    try:
        yield made
    finally:
        for process in made.started:
            if process.poll() is None:
                process.kill()
                process.wait(10)
        for job, status in ray.jobs(name).items():
            if status in ("PENDING", "RUNNING"):
                ray.call(f"{job}/stop", "POST")
        admin.delete_topics([made.topic])[made.topic].result(30)


def test_request_becomes_one_job_and_the_next_one_has_to_wait(world: RetrainWorld) -> None:
    world.start()
    world.wait_ready()
    first = world.ask()
    world.wait_state(first, "started")
    second = world.ask("drift")
    reason = world.wait_state(second, "suppressed").reason
    assert reason.startswith(f"in flight: request {first.request_id} is ")
    world.release()
    world.wait_state(first, "finished")
    eventually(lambda: set(world.ray.jobs(world.name).values()) == {"SUCCEEDED"}, JOB_S)
    third = world.ask("drift")
    fourth = world.ask("drift")
    world.wait_state(third, "finished")
    assert world.wait_state(fourth, "suppressed").reason.startswith("in flight")
    fifth = world.ask("drift")
    assert world.wait_state(fifth, "suppressed").reason.startswith("cooldown: 5")
    assert world.states(first) == ["requested", "accepted", "started", "finished"]
    assert [run[2] for run in world.runs()] == [first.request_id, third.request_id]
    assert {run[1] for run in world.runs()} == {"10"}, "the job does not stand back"
    metrics = world.get("/metrics")
    labels = f'pipeline="{world.name}"'
    assert (
        f'penstock_retrain_requests_total{{{labels},reason="cooldown",state="suppressed"}} 1.0'
        in (metrics)
    )
    assert f"penstock_retrain_in_flight{{{labels}}} 0.0" in metrics
    began = time.monotonic()
    assert world.stop() == 0
    assert time.monotonic() - began < 5
    assert not (world.folder.parent / "run").exists()
    left = {path.name for path in world.folder.parent.iterdir()}
    assert left == {world.name, "stand-in"}, "the service leaves something behind"


@pytest.mark.parametrize(
    "place", ["before_submit", pytest.param("after_submit", marks=pytest.mark.faults)]
)
def test_killed_around_the_submission_there_is_one_job(world: RetrainWorld, place: str) -> None:
    world.start(**kill_job(place))
    world.wait_ready()
    request = world.ask()
    assert world.process is not None
    assert world.process.wait(START_S) == -signal.SIGKILL
    assert world.states(request)[:2] == ["requested", "accepted"]
    if place == "before_submit":
        assert not world.ray.jobs(world.name), "the kill has missed"
    world.start()
    world.wait_state(request, "started")
    world.release()
    world.wait_state(request, "finished")
    assert world.states(request) == ["requested", "accepted", "started", "finished"]
    assert len(world.runs()) == 1


@pytest.mark.faults
def test_requests_made_while_the_trigger_is_down_are_decided_once(world: RetrainWorld) -> None:
    world.release()
    producer = Producer({"bootstrap.servers": world.bootstrap})
    for value in (b"junk", None, b"\x00\x00"):
        producer.produce(world.topic, value, world.name.encode(), 0)
    assert producer.flush(20) == 0
    world.write(RetrainEvent.request("foreign", "another", 0, "cli"))
    requests = [world.ask("drift") for _ in range(3)]
    world.write(*requests)  # a producer may repeat itself
    world.start()
    world.wait_state(requests[0], "finished")
    for request in requests[1:]:
        world.wait_state(request, "suppressed")
    unreadable = f'penstock_retrain_unreadable_total{{pipeline="{world.name}"}} 4.0'
    assert unreadable in world.get("/metrics")
    assert world.stop(signal.SIGKILL) == -signal.SIGKILL
    before = len(world.events())
    world.start()
    world.wait_ready()
    holds_for(lambda: len(world.events()) == before, 2, "a restart writes nothing anew")


@pytest.mark.faults
def test_trigger_killed_while_it_watches_goes_on_watching(world: RetrainWorld) -> None:
    world.start()
    world.wait_ready()
    request = world.ask()
    world.wait_state(request, "started")
    assert world.stop(signal.SIGKILL) == -signal.SIGKILL
    world.start()
    world.wait_ready()
    # Only who watches finds out that the job has died, and has it start again.
    pid = int(world.runs()[0][0])
    psutil.Process(pid).kill()
    eventually(lambda: len(world.runs()) == 2, JOB_S, "the job runs again")
    world.release()
    world.wait_state(request, "finished")
    expected = ["requested", "accepted", "started", "resubmitted", "finished"]
    # The stand-in repeats `started`, as a job that lost its memory would.
    states = [e.state for e in world.events() if e.request_id == request.request_id]
    assert states == [*expected[:4], "started", "finished"]
    again = [e for e in world.events() if e.event_id == f"{request.request_id}.resubmitted.2"]
    assert again[0].reason.startswith("submission 2 of 3: ")


@pytest.mark.faults
def test_job_that_keeps_failing_is_given_up(world: RetrainWorld) -> None:
    (world.steering / "exit").write_text("3")
    world.start(**{f"{PREFIX}MAX_SUBMISSIONS": "2"})
    request = world.ask()
    failed = world.wait_state(request, "failed")
    assert failed.reason == "no use: the stand-in was told to fail, after 2 submissions"
    assert len(world.runs()) == 2
    (world.steering / "exit").unlink()
    world.release()
    following = world.ask()
    world.wait_state(following, "finished")


def test_job_that_fails_for_good_is_not_tried_again(world: RetrainWorld) -> None:
    (world.steering / "exit").write_text("1")
    world.start()
    request = world.ask()
    failed = world.wait_state(request, "failed")
    assert failed.reason == "no use: the stand-in was told to fail"
    assert len(world.runs()) == 1


def test_cancelled_request_frees_the_slot_and_its_job_is_stopped(world: RetrainWorld) -> None:
    world.start(**{f"{PREFIX}JOB_LEAVE_S": "1"})
    world.wait_ready()
    request = world.ask()
    world.wait_state(request, "started")
    world.write(request.followed_by("cancelled", time.time_ns() // 1_000_000, reason="by test"))
    following = world.ask()
    world.wait_state(following, "started")
    statuses = world.ray.jobs(world.name)
    assert statuses[request.request_id] == "STOPPED"
    assert len(world.runs()) == 2
    world.release()
    world.wait_state(following, "finished")
    assert world.states(request) == ["requested", "accepted", "started", "cancelled"]


@pytest.mark.faults
def test_process_that_slept_through_its_successor_decides_nothing(world: RetrainWorld) -> None:
    world.start()
    world.wait_ready()
    sleeper = world.process
    assert sleeper is not None
    sleeper.send_signal(signal.SIGSTOP)
    world.release()
    request = world.ask()
    world.start()
    world.wait_state(request, "finished")
    waiting = world.ask("drift")
    assert world.process is not None
    world.wait_state(waiting, "finished")
    assert world.process.poll() is None
    sleeper.send_signal(signal.SIGCONT)
    last = world.ask("drift")
    assert world.wait_state(last, "suppressed").reason.startswith("cooldown")
    for each in (request, waiting, last):
        decided = [s for s in world.states(each) if s in ("accepted", "suppressed")]
        assert len(decided) == 1
