"""The retrain trigger as a process, with a pipeline of its own, as tests see it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from harness.waiting import eventually
from penstock_registry.client import RegistryClient, RegistrySettings
from penstock_schemas.avro_rows import PREFIX_BYTES
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.records import RetrainEvent
from penstock_schemas.schema_files import schema_text

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
class RetrainWorld:
    """One pipeline of its own: folder, topic, and the service."""

    bootstrap: str
    registry_url: str
    ray: RayView
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
        steering = {
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "STAND_IN_DIR": str(self.steering),
        }
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
            f"{PREFIX}JOB_MODULE": "harness.retrain_stand_in",
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
                if value and len(value) > PREFIX_BYTES:
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
