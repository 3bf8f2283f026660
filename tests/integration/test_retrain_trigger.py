"""The retrain trigger as a process, on a real broker, registry and Ray; its job is a stand-in."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from harness.tiny_pipeline import write_folder
from harness.waiting import eventually, holds_for
from penstock_pipelines.loader import load_pipeline
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.records import RetrainEvent
from penstock_schemas.schema_files import schema_text
from penstock_streaming.registry import RegistryClient, RegistrySettings

PREFIX = "PENSTOCK_RETRAIN_TRIGGER_"
START_S = 60.0
JOB_S = 60.0
"""A busy machine takes long to start a job's interpreter."""
pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Ray:
    """Ray's job interface as an operator sees it."""

    url: str
    token: str = field(repr=False)

    def call(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(  # noqa: S310 - the test's own Ray
            f"{self.url}/api/jobs/{path}",
            method=method,
            headers={"Authorization": f"Bearer {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.load(answer)

    def jobs(self, prefix: str) -> dict[str, str]:
        """Return the status of each job whose submission id begins so."""
        named = {j["submission_id"] or "": j["status"] for j in self.call("")}
        return {name: status for name, status in named.items() if name.startswith(prefix)}


@dataclass
class World:
    """One pipeline of its own: folder, topic, and the service."""

    bootstrap: str
    registry_url: str
    ray: Ray
    token_path: Path
    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def topic(self) -> str:
        return f"{self.name}.retrain.v1"

    @property
    def steering(self) -> Path:
        """Folder that steers the stand-in."""
        return self.folder.parent / "stand-in"

    def request_id(self) -> str:
        return f"{self.name}-{uuid.uuid4().hex[:8]}"

    def start(self, **extra: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        steering = {"PYTHONPATH": str(Path(__file__).parent), "STAND_IN_DIR": str(self.steering)}
        environment = {
            **os.environ,
            f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            f"{PREFIX}REGISTRY__URL": self.registry_url,
            f"{PREFIX}PIPELINES": json.dumps([str(self.folder)]),
            f"{PREFIX}METRICS_PORT": str(self.port),
            f"{PREFIX}RUN_DIR": str(self.folder.parent / "run"),
            f"{PREFIX}MODELS_DIR": str(self.folder.parent / "models"),
            f"{PREFIX}RAY_JOBS_URL": self.ray.url,
            f"{PREFIX}RAY_AUTH_TOKEN_PATH": str(self.token_path),
            f"{PREFIX}JOB_MODULE": "retrain_stand_in",
            f"{PREFIX}JOB_ENVIRONMENT": json.dumps(steering),
            f"{PREFIX}RESUBMIT_WAIT_S": "3",
            f"{PREFIX}WATCH_INTERVAL_S": "0.3",
            f"{PREFIX}SESSION_TIMEOUT_S": "6",
            **extra,
        }
        command = [sys.executable, "-m", "penstock_retrain_trigger"]
        self.process = subprocess.Popen(
            command, env=environment, cwd=self.folder.parent, start_new_session=True
        )
        self.started.append(self.process)

    def get(self, path: str) -> str:
        address = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(address, timeout=2) as answer:
            return str(answer.read().decode())

    def wait_ready(self) -> None:
        eventually(lambda: self.get("/ready"), START_S, "the service is ready")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(15)

    def write(self, *events: RetrainEvent) -> None:
        schema = schema_text("retrain_event.avsc")
        registry = RegistryClient(RegistrySettings(url=self.registry_url))
        schema_id = registry.register(f"{self.topic}-value", schema)
        producer = Producer({"bootstrap.servers": self.bootstrap, "compression.type": "lz4"})
        for event in events:
            value = encode_one(schema, schema_id, event.to_dict())
            producer.produce(self.topic, value, self.name.encode(), 0)
        assert producer.flush(30) == 0

    def ask(self, source: str = "cli", request_id: str | None = None) -> RetrainEvent:
        now = time.time_ns() // 1_000_000
        event = RetrainEvent.request(request_id or self.request_id(), self.name, now, source)
        self.write(event)
        return event

    def events(self) -> list[RetrainEvent]:
        """Return what is committed in the topic."""
        schema = schema_text("retrain_event.avsc")
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": uuid.uuid4().hex,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
            }
        )
        consumer.assign([TopicPartition(self.topic, 0, 0)])
        found: list[RetrainEvent] = []
        try:
            while True:
                message = consumer.poll(20)
                assert message is not None
                error = message.error()
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF
                    return found
                value = message.value()
                if value and len(value) > 5:
                    found.append(
                        RetrainEvent.from_dict(decode_one(value, lambda _: schema, schema))
                    )
        finally:
            consumer.close()

    def states(self, request: RetrainEvent) -> list[str]:
        """Return the states of a request, in order; no event id may come twice."""
        mine = [e for e in self.events() if e.request_id == request.request_id]
        assert len({e.event_id for e in mine}) == len(mine), mine
        return [e.state for e in mine]

    def wait_state(self, request: RetrainEvent, state: str) -> RetrainEvent:
        def found() -> RetrainEvent | None:
            states = (e for e in self.events() if e.request_id == request.request_id)
            return next((e for e in states if e.state == state), None)

        event = eventually(found, JOB_S, f"{request.request_id} is {state}")
        assert event is not None
        return event

    def runs(self) -> list[list[str]]:
        """Return pid, niceness and request of each run of the stand-in."""
        path = self.steering / "runs"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def release(self) -> None:
        (self.steering / "release").touch()


@pytest.fixture(scope="session")
def ray_jobs(request: pytest.FixtureRequest) -> tuple[Ray, Path]:
    """Return Ray's job interface and its token's file: as named for a test, else the stack's."""
    named = os.environ.get("PENSTOCK_TEST_RAY_JOBS"), os.environ.get("PENSTOCK_TEST_RAY_TOKEN")
    if named[0] and named[1]:
        url, token_path = named[0], Path(named[1])
    else:
        stack = request.getfixturevalue("stack")
        url, token_path = stack.component("ray")["endpoint"], stack.data_dir / "ray-token"
    return Ray(url.rstrip("/"), token_path.read_text().strip()), token_path


@pytest.fixture
def world(
    kafka_bootstrap: str, registry_url: str, ray_jobs: tuple[Ray, Path], tmp_path: Path
) -> Iterator[World]:
    name = f"trg{uuid.uuid4().hex[:8]}"
    folder = write_folder(tmp_path).rename(tmp_path / name)
    text = (folder / "pipeline.yaml").read_text().replace("pipeline: pumps", f"pipeline: {name}")
    (folder / "pipeline.yaml").write_text(f"{text}\nretrain: {{cooldown_s: 600}}\n")
    ray, token_path = ray_jobs
    made = World(kafka_bootstrap, registry_url, ray, token_path, folder)
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


def test_request_becomes_one_job_and_the_next_one_has_to_wait(world: World) -> None:
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


@pytest.mark.parametrize("place", ["before_submit", "after_submit"])
def test_killed_around_the_submission_there_is_one_job(world: World, place: str) -> None:
    world.start(PENSTOCK_FAIL_POINT=place)
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


def test_requests_made_while_the_trigger_is_down_are_decided_once(world: World) -> None:
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


def test_trigger_killed_while_it_watches_goes_on_watching(world: World) -> None:
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
    expected = ["requested", "accepted", "started", "accepted", "finished"]
    # The stand-in repeats `started`, as a job that lost its memory would.
    states = [e.state for e in world.events() if e.request_id == request.request_id]
    assert states == [*expected[:4], "started", "finished"]
    again = [e for e in world.events() if e.event_id == f"{request.request_id}.accepted.2"]
    assert again[0].reason.startswith("submission 2 of 3: ")


def test_job_that_keeps_failing_fails_after_three_submissions(world: World) -> None:
    (world.steering / "exit").write_text("3")
    world.start()
    request = world.ask()
    failed = world.wait_state(request, "failed")
    assert failed.reason == "no use: the stand-in was told to fail, after 3 submissions"
    assert len(world.runs()) == 3
    (world.steering / "exit").unlink()
    world.release()
    following = world.ask()
    world.wait_state(following, "finished")


def test_job_that_fails_for_good_is_not_tried_again(world: World) -> None:
    (world.steering / "exit").write_text("1")
    world.start()
    request = world.ask()
    failed = world.wait_state(request, "failed")
    assert failed.reason == "no use: the stand-in was told to fail"
    assert len(world.runs()) == 1


def test_cancelled_request_frees_the_slot_and_its_job_is_stopped(world: World) -> None:
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


def test_process_that_slept_through_its_successor_decides_nothing(world: World) -> None:
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
