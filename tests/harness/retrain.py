"""Retraining on a real stack: the training job on its own pipeline, the trigger as a process.

`RetrainedPipeline` has a stand-in for the pipeline's router, which answers as the router does: the
candidate for its share of the keys when the routing state says so, else the champion; both by their
own ONNX files. `TriggerService` runs the trigger; its jobs are `retrain_stand_in.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from confluent_kafka import Producer
from harness.kafka import delete_topics, read_topic
from harness.kills import kill_job
from harness.models import NAME, write_folder
from harness.services import ServiceProcess, service_settings
from harness.waiting import background_calls, eventually
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_routing.states import BUCKETS, buckets
from penstock_routing.topic import RoutingTopic
from penstock_schemas.avro_rows import PREFIX_BYTES
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.records import ModelVersion, RetrainEvent, RoutingState
from penstock_schemas.schema_files import schema_text
from penstock_service.fail_points import FailPoints
from penstock_streaming import admin
from penstock_streaming.log_view import LogView
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline
from penstock_training.first_model import Addresses as FirstPlaces
from penstock_training.first_model import provide_first_model
from penstock_training.onnx_export import onnx_scores
from penstock_training.publish import MODEL_FILE
from penstock_training_job.candidate import MakeTrainer
from penstock_training_job.job import Addresses, open_job
from penstock_training_job.run import run


def shape(state: RoutingState) -> list[tuple[str, str, int, str]]:
    """Return version, alias, weight and state of each version."""
    return [(v.version, v.alias, v.weight, v.state) for v in state.versions]


def loaded(places: Addresses, served_as: str) -> bool:
    """Tell whether the model server has a version ready."""
    import tritonclient.grpc as triton

    client: Any = triton.InferenceServerClient(places.triton_grpc)
    try:
        return bool(client.is_model_ready(served_as))
    finally:
        client.close()


SECTIONS: Final = """
labels: {horizon_s: 3600}
retrain: {min_labels: 1500, max_labels: 3000, label_wait_s: 60}
rollout: {canary_percent: 50, min_canary_rows: 300, max_wait_s: 90}
"""
CALL_S: Final = 30.0
JOB_RUN_S: Final = 120.0
REPOSITORY: Final = Path(__file__).parents[2]
Matrix = npt.NDArray[np.float32]
Concept = Callable[[Matrix], npt.NDArray[np.float64]]


def vibrating(matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return the labels that the first model has learnt, with some noise."""
    noise = np.random.default_rng(len(matrix)).random(len(matrix)) < 0.02
    return np.where(noise, 1.0, matrix[:, 0] > 5.0).astype(np.float64)


def pressed(matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return labels after a change of concept: the first model knows nothing of them."""
    return (matrix[:, 1] > 45.0).astype(np.float64)


class RetrainedPipeline:
    """One pipeline with topics and a first model, what happens on its topics, and the job."""

    def __init__(self, places: Addresses, root: Path, sections: str = SECTIONS) -> None:
        self.places = places
        self.name = f"{NAME}-{uuid.uuid4().hex[:8]}"
        folder = write_folder(root).rename(root / self.name)
        text = (folder / "pipeline.yaml").read_text()
        text = text.replace(f"pipeline: {NAME}", f"pipeline: {self.name}")
        text = text.replace("kind: logistic", "kind: logistic\n  timeout_s: 1.0")
        (folder / "pipeline.yaml").write_text(text + sections)
        self.loaded: LoadedPipeline = load_pipeline(folder)
        self.topics = self.loaded.config.topic_names
        self.kafka = KafkaSettings(bootstrap_servers=places.kafka)
        self.registry = RegistryClient(RegistrySettings(url=places.registry))
        wanted = self.topics.all(self.loaded.config.partitions)
        admin.apply(self.kafka, self.registry, wanted, {})
        self.routing = RoutingTopic(self.kafka, self.registry, self.topics.models, self.name)
        self.first = provide_first_model(
            folder,
            FirstPlaces(
                places.kafka, places.registry, places.mlflow, places.triton_grpc,
                places.models_dir, root / "feast",
            ),
        )  # fmt: skip
        self._producer = Producer({"bootstrap.servers": places.kafka, "linger.ms": 20})
        self._rng = np.random.default_rng(5)
        self._ids: dict[str, int] = {}

    def remove_topics(self) -> None:
        """Delete the pipeline's topics."""
        delete_topics(self.places.kafka, [topic.name for topic in self.topics.all(1)])

    def state(self) -> RoutingState:
        """Return the routing state in force."""
        found = self.routing.latest(CALL_S)
        assert found is not None
        return found

    @staticmethod
    def now() -> int:
        """Return the time in milliseconds."""
        return time.time_ns() // 1_000_000

    def serve(self, count: int, concept: Concept, *, labelled: bool = True, after: int = 0) -> None:
        """Predict events as the router would, and tell their labels if ``labelled``.

        Events are a millisecond apart and end now, or begin at ``after``.
        """
        state = self.state()
        matrix = self._features(count)
        keys = [b"pump-%d" % n for n in self._rng.integers(0, 2_000, count)]
        labels = concept(matrix)
        answers = self._answers(matrix, keys, state)
        now = self.now()
        first = after or now - count
        for i, (version, score) in enumerate(answers):
            event_id = uuid.uuid4().hex
            record = {
                "event_id": event_id,
                "event_time": first + i,
                "predicted_at": now,
                "pipeline": self.name,
                "model_name": self.name,
                "model_version": version.version,
                "variant": "champion" if version.alias == "champion" else "canary",
                "scores": [score],
                "decision": score >= 0.5,
                "threshold": 0.5,
                "features": matrix[i].tolist(),
                "origin": None,
                "attempt": "stand-in",
                "outcome": "predicted",
            }
            self._send(self.topics.predictions, "prediction.avsc", record, keys[i])
            if labelled:
                known = {"event_id": event_id, "label": float(labels[i]), "occurred_at": now}
                self._send(self.topics.interactions, "interaction.avsc", known, event_id.encode())
        assert self._producer.flush(CALL_S) == 0

    def _features(self, count: int) -> Matrix:
        failing = self._rng.random(count) < 0.3
        quiet, loud = self._rng.normal(1.5, 1, count), self._rng.normal(9, 1, count)
        pressure, heat = self._rng.uniform(20, 60, count), self._rng.normal(70, 8, count)
        columns = (np.where(failing, loud, quiet), pressure, heat, np.full(count, 3.0))
        return np.column_stack(columns).astype(np.float32)

    def _answers(
        self, matrix: Matrix, keys: list[bytes], state: RoutingState
    ) -> list[tuple[ModelVersion, float]]:
        """Return who answers each event, and what."""
        champion = state.champion
        assert champion is not None
        canary = next((v for v in state.versions if v.state == "canary"), None)
        share = 0 if canary is None else canary.weight
        chosen = buckets(keys, self.name) < share * BUCKETS // 100
        scores = self._scores(champion, matrix)
        if canary is not None:
            scores = np.where(chosen, self._scores(canary, matrix), scores)
        who = [canary if c and canary else champion for c in chosen]
        return list(zip(who, scores.tolist(), strict=True))

    def _scores(self, version: ModelVersion, matrix: Matrix) -> npt.NDArray[np.float64]:
        file = self.places.models_dir / version.served_as / MODEL_FILE
        return onnx_scores(file.read_bytes(), matrix)

    @contextmanager
    def traffic(self, concept: Concept, *, labelled: bool = True) -> Iterator[None]:
        """Serve events all the time in the block."""
        stop = threading.Event()

        def run() -> None:
            while not stop.is_set():
                self.serve(100, concept, labelled=labelled)
                stop.wait(0.2)

        with background_calls() as start:
            call = start(run)
            try:
                yield
            finally:
                stop.set()
                call.join()

    def request(self, **facts: Any) -> str:
        """Ask for a retraining and return the request's id."""
        request_id = f"test-{uuid.uuid4().hex[:12]}"
        self.tell(RetrainEvent.request(request_id, self.name, self.now(), "cli", **facts))
        return request_id

    def tell(self, event: RetrainEvent) -> None:
        """Write a retrain event."""
        key = self.name.encode()
        self._send(self.topics.retrain, "retrain_event.avsc", event.to_dict(), key)
        assert self._producer.flush(CALL_S) == 0

    def _send(self, topic: str, schema: str, record: dict[str, Any], key: bytes) -> None:
        text = schema_text(schema)
        if schema not in self._ids:
            self._ids[schema] = self.registry.register(f"{topic}-value", text)
        full = {"kind": None, "value": None, **record} if schema == "interaction.avsc" else record
        self._producer.produce(topic, encode_one(text, self._ids[schema], full), key)
        self._producer.poll(0)

    def events(self, request_id: str) -> list[RetrainEvent]:
        """Return the request's events in the log, in order."""
        text = schema_text("retrain_event.avsc")
        here = [(self.topics.retrain, 0)]
        found = [
            RetrainEvent.from_dict(
                decode_one(message.value() or b"", self.registry.schema_text, text)
            )
            for messages in LogView(self.kafka).read_to_end(here, Deadline(CALL_S))
            for message in messages
        ]
        return [e for e in found if e.request_id == request_id]

    def job(self, request_id: str, fail_point: str = "") -> subprocess.CompletedProcess[str]:
        """Run the job in a process of its own, which ends at ``fail_point`` if one is named."""
        places = {name.replace("_", "-"): value for name, value in asdict(self.places).items()}
        flags = {"request-id": request_id, "pipeline-dir": self.loaded.folder, **places}
        arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
        return subprocess.run(
            [sys.executable, "-m", "penstock_training_job", *arguments],
            env={**os.environ, **kill_job(fail_point)},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=JOB_RUN_S,
        )

    def job_with(self, request_id: str, make: MakeTrainer) -> RetrainEvent:
        """Run the job in this process, with other trainers."""
        job = open_job(request_id, self.loaded.folder, self.places, FailPoints())
        return run(job, make)


PREFIX: Final = "PENSTOCK_RETRAIN_TRIGGER_"
START_S: Final = 60.0
JOB_S: Final = 60.0
"""A busy machine takes long to start a job's interpreter."""


@dataclass(frozen=True)
class RayView:
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
class TriggerService:
    """One pipeline of its own: folder, topic, and the service."""

    bootstrap: str
    registry_url: str
    ray: RayView
    token_path: Path
    folder: Path
    process: ServiceProcess | None = None
    started: list[ServiceProcess] = field(default_factory=list)

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
        """Start the trigger and wait for nothing."""
        folder = self.folder.parent
        steering = {
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "STAND_IN_DIR": str(self.steering),
        }
        settings = service_settings(
            "retrain_trigger",
            kafka=self.bootstrap,
            registry=self.registry_url,
            pipelines=[self.folder],
            run_dir=folder / "run",
            MODELS_DIR=folder / "models",
            RAY_JOBS_URL=self.ray.url,
            RAY_AUTH_TOKEN_PATH=self.token_path,
            JOB_MODULE="harness.retrain_stand_in",
            JOB_ENVIRONMENT=json.dumps(steering),
            RESUBMIT_WAIT_S=3,
            WATCH_INTERVAL_S=0.3,
            SESSION_TIMEOUT_S=6,
        )
        self.process = ServiceProcess("retrain_trigger", {**settings, **extra}, folder=folder)
        self.started.append(self.process)

    def get(self, path: str) -> str:
        """Return a page of the service that was started last."""
        assert self.process is not None
        return self.process.get(path)

    def wait_ready(self) -> None:
        """Wait until the service that was started last is ready."""
        assert self.process is not None
        service = self.process
        eventually(lambda: service.is_ready, START_S, "the service is ready")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the service a signal and return its exit code."""
        assert self.process is not None
        return self.process.stop(number, 15)

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
        values = [message.value() for message in read_topic(self.bootstrap, self.topic)]
        return [
            RetrainEvent.from_dict(decode_one(value, lambda _: schema, schema))
            for value in values
            if value and len(value) > PREFIX_BYTES
        ]

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
