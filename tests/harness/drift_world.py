"""A pipeline of its own on a real broker, with the drift service as a process."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
import yaml
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from harness.drift_stream import Stream, interactions, predictions
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_registry.client import RegistryClient, RegistrySettings
from penstock_schemas.codec import decode_one
from penstock_schemas.records import DriftEvent, RetrainEvent
from penstock_schemas.schema_files import schema_text

PREFIX = struct.Struct(">bI")
FRAUD = Path(__file__).parents[2] / "pipelines" / "fraud"
WAIT_S = 120.0
READ_ROWS = 5_000


@dataclass
class DriftWorld:
    """Topics, schemas and the service.

    Parameters
    ----------
    mlflow_url
        An address where nobody answers 404 would stop the service: give one that does.
    """

    bootstrap: str
    registry_url: str
    mlflow_url: str
    loaded: LoadedPipeline
    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    encoders: dict[str, Any] = field(default_factory=dict)

    @property
    def topics(self) -> Any:
        return self.loaded.config.topic_names

    @property
    def reports(self) -> Path:
        return self.folder / "reports" / self.loaded.config.pipeline

    def start(self, **extra: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        prefix = "PENSTOCK_DRIFT_"
        environment = {
            **os.environ,
            f"{prefix}KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            f"{prefix}REGISTRY__URL": self.registry_url,
            f"{prefix}PIPELINES": f'["{self.loaded.folder}"]',
            f"{prefix}MLFLOW_URL": self.mlflow_url,
            f"{prefix}REPORTS_DIR": str(self.folder / "reports"),
            f"{prefix}METRICS_PORT": str(self.port),
            f"{prefix}RUN_DIR": str(self.folder / "run"),
            **extra,
        }
        command = [sys.executable, "-m", "penstock_drift"]
        self.process = subprocess.Popen(command, env=environment, start_new_session=True)

    def get(self, path: str) -> str | None:
        """Return what the service's endpoint answers, or None."""
        try:
            url = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return str(answer.read().decode())
        except urllib.error.URLError:
            return None

    def metric(self, name: str, **labels: str) -> float | None:
        """Return a sample whose labels include those given."""
        for line in (self.get("/metrics") or "").splitlines():
            if line.startswith(f"{name}{{") and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                return float(line.rpartition(" ")[2])
        return None

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def publish(self, stream: Stream, start: int, end: int) -> None:
        """Publish predictions and the labels known by then, as foreign producers do."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True})
        partitions = self.loaded.config.partitions
        for topic, schema, rows in (
            (self.topics.predictions, "prediction.avsc", predictions(stream, start, end)),
            (self.topics.interactions, "interaction.avsc", interactions(stream, start, end)),
        ):
            if topic not in self.encoders:
                self.encoders[topic] = self._encoder(topic, schema_text(schema))
            for number, row in enumerate(rows):
                value = self.encoders[topic](row)
                while True:
                    try:
                        producer.produce(topic, value, b"k", partition=number % partitions)
                    except BufferError:
                        producer.poll(0.1)
                    else:
                        break
        assert producer.flush(WAIT_S) == 0

    def _encoder(self, topic: str, text: str) -> Callable[[dict[str, Any]], bytes]:
        registry = RegistryClient(RegistrySettings(url=self.registry_url))
        prefix = PREFIX.pack(0, registry.register(f"{topic}-value", text))
        parsed = fastavro.parse_schema(json.loads(text))

        def encode(row: dict[str, Any]) -> bytes:
            stream = io.BytesIO(prefix)
            stream.seek(len(prefix))
            fastavro.schemaless_writer(stream, parsed, row)
            return stream.getvalue()

        return encode

    def read(self, topic: str, rows: int = 0, isolation: str = "read_committed") -> list[Message]:
        """Read a topic from its start until ``rows`` records are there and a second is quiet."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": uuid.uuid4().hex,
                "isolation.level": isolation,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        try:
            count = len(consumer.list_topics(topic, 10).topics[topic].partitions)
            consumer.assign([TopicPartition(topic, p, 0) for p in range(count)])
            got: list[Message] = []
            end, quiet = time.monotonic() + WAIT_S, time.monotonic() + 1
            while time.monotonic() < end and (len(got) < rows or time.monotonic() < quiet):
                messages = consumer.consume(READ_ROWS, 0.2)
                assert not [m for m in messages if m.error() is not None]
                got.extend(messages)
                quiet = time.monotonic() + 1 if messages else quiet
            return got
        finally:
            consumer.close()

    def events(self, rows: int = 0) -> list[DriftEvent]:
        schema = schema_text("drift_event.avsc")
        found = [
            DriftEvent.from_dict(decode_one(m.value() or b"", lambda _: schema, schema))
            for m in self.read(self.topics.drift, rows)
        ]
        assert len({event.event_id for event in found}) == len(found), "an event came twice"
        return found

    def requests(self, rows: int = 0) -> list[RetrainEvent]:
        schema = schema_text("retrain_event.avsc")
        return [
            RetrainEvent.from_dict(decode_one(m.value() or b"", lambda _: schema, schema))
            for m in self.read(self.topics.retrain, rows)
        ]


@contextmanager
def drift_world(
    bootstrap: str, registry_url: str, mlflow_url: str, folder: Path, sections: dict[str, Any]
) -> Iterator[DriftWorld]:
    """Make a world; ``sections`` take the place of those in its pipeline.yaml."""
    name = f"drift-{uuid.uuid4().hex[:8]}"
    shutil.copytree(FRAUD, folder / name)
    shipped = yaml.safe_load((FRAUD / "pipeline.yaml").read_text())
    text = yaml.safe_dump({**shipped, **sections, "pipeline": name})
    (folder / name / "pipeline.yaml").write_text(text)
    loaded = load_pipeline(folder / name)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    topics = loaded.config.topic_names.all(loaded.config.partitions)
    created = admin.create_topics(
        [NewTopic(t.name, t.partitions, 1, config=t.config) for t in topics]
    )
    for future in created.values():
        future.result(30)
    world = DriftWorld(bootstrap, registry_url, mlflow_url, loaded, folder)
    try:
        yield world
    finally:
        if world.process is not None and world.process.poll() is None:
            world.process.kill()
            world.process.wait(10)
        for future in admin.delete_topics([t.name for t in topics]).values():
            future.result(30)
