"""The drift service's inputs, a stream whose change is known, and the service as a process."""

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import yaml
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from penstock_monitoring.observations import Observations, observations_of
from penstock_monitoring.reference import (
    REFERENCE_FILE,
    SAMPLE_FILE,
    Reference,
    make_reference,
)
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_registry.client import RegistryClient, RegistrySettings
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder, decode_one, encode_one
from penstock_schemas.records import DriftEvent, DriftState, RetrainEvent
from penstock_schemas.schema_files import schema_text
from penstock_streaming.handler import HandledBatch, MessageBatch
from penstock_streaming.in_flight import batch_of
from penstock_streaming.timing import Deadline

EVENT_MS = 6_000
DELAY_MS = 2 * 3_600_000
START_MS = 10**12


@dataclass(frozen=True)
class Stream:
    """Events of one model: n rows by event time.

    Parameters
    ----------
    known
        When each label is known, milliseconds.
    """

    times: npt.NDArray[np.int64]
    known: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32]
    versions: list[str]
    model: str = "made"

    def __len__(self) -> int:
        return len(self.times)


def make_stream(
    seed: int,
    rows: int,
    *,
    concept_at: int | None = None,
    shift_at: int | None = None,
    recovered_at: int | None = None,
    width: int = 30,
    model: str = "made",
) -> Stream:
    """Draw a stream.

    Parameters
    ----------
    concept_at
        Row from which on the scores say nothing about the labels.
    shift_at
        Row from which on the first feature is larger.
    recovered_at
        Row from which on the change of concept is over.
    """
    rng = np.random.default_rng(seed)
    risk = rng.beta(0.05, 1.2, rows)
    labels = (rng.random(rows) < risk).astype(np.float64)
    scores = risk.copy()
    if concept_at is not None:
        changed = slice(concept_at, recovered_at)
        scores[changed] = rng.permutation(scores[changed])
    features = rng.normal(size=(rows, width)).astype(np.float32)
    if shift_at is not None:
        features[shift_at:, 0] += 1.0
    times = START_MS + np.arange(rows, dtype=np.int64) * EVENT_MS
    known = times + (rng.uniform(0.5, 1.5, rows) * DELAY_MS).astype(np.int64)
    as_sent = scores.astype(np.float32).astype(np.float64)
    return Stream(times, known, as_sent, labels, features, ["1"] * rows, model)


def make_training_reference(names: tuple[str, ...]) -> Reference:
    """Return the reference of what `make_stream` draws without a change."""
    trained = make_stream(12345, 10_000, width=len(names))
    return make_reference(names, trained.features, trained.scores)


def log_model(mlflow_url: str, name: str, names: tuple[str, ...], folder: Path) -> None:
    """Register version 1 of a model, with the artifacts that training leaves."""
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_url)
    run = client.create_run(client.create_experiment(name)).info
    (folder / REFERENCE_FILE).write_text(make_training_reference(names).to_json())
    trained = make_stream(12345, 5_000, width=len(names))
    sample = pd.DataFrame(trained.features, columns=list(names))
    sample = sample.assign(score=trained.scores, label=trained.labels)
    sample.to_parquet(folder / SAMPLE_FILE)
    for file in (REFERENCE_FILE, SAMPLE_FILE):
        client.log_artifact(run.run_id, str(folder / file))
    client.create_registered_model(name)
    client.create_model_version(name, f"runs:/{run.run_id}/model", run.run_id)


def delete_model(mlflow_url: str, name: str) -> None:
    """Remove what `log_model` has made."""
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_url)
    client.delete_registered_model(name)
    client.delete_experiment(client.get_experiment_by_name(name).experiment_id)


def predictions(stream: Stream, start: int, end: int) -> Iterator[dict[str, Any]]:
    """Yield predictions as records of prediction.avsc."""
    for row in range(start, end):
        yield {
            "event_id": f"e{row}",
            "event_time": int(stream.times[row]),
            "predicted_at": int(stream.times[row]),
            "pipeline": "p",
            "model_name": stream.model,
            "model_version": stream.versions[row],
            "variant": "champion",
            "scores": [float(stream.scores[row])],
            "decision": False,
            "threshold": 0.5,
            "features": stream.features[row].tolist(),
            "origin": None,
            "attempt": "a",
            "outcome": "predicted",
        }


def interactions(stream: Stream, start: int, end: int) -> Iterator[dict[str, Any]]:
    """Yield labels that become known while these events happen, in that order."""
    first = stream.times[start - 1] if start else 0
    last = stream.times[end - 1] if end < len(stream) else np.iinfo(np.int64).max
    chosen = np.flatnonzero((stream.known > first) & (stream.known <= last))
    for row in chosen[np.argsort(stream.known[chosen], kind="stable")].tolist():
        yield {
            "event_id": f"e{row}",
            "label": float(stream.labels[row]),
            "kind": None,
            "value": None,
            "occurred_at": int(stream.known[row]),
        }


def log_of(stream: Stream, variant: str = "champion") -> list[tuple[int, int]]:
    """Return (row, 0 for the prediction or 1 for the label) in the order of time."""
    both = [(int(t), row, 0) for row, t in enumerate(stream.times)]
    both += [(int(t), row, 1) for row, t in enumerate(stream.known)]
    return [(row, kind) for _, row, kind in sorted(both)]


def observed(stream: Stream, log: list[tuple[int, int]], first_offset: int) -> Observations:
    """Return a piece of a log as a batch; offsets count its records."""
    offsets = np.arange(first_offset, first_offset + len(log))
    return observations_of(observation_columns(stream, log), offsets)


def observation_columns(stream: Stream, log: list[tuple[int, int]]) -> pa.RecordBatch:
    """Return a piece of a log as columns of observation.avsc."""
    rows = np.array([row for row, _ in log], np.int64)
    is_label = np.array([kind for _, kind in log], np.bool_)
    width = stream.features.shape[1]
    ends = np.concatenate([[0], np.cumsum(np.where(is_label, 0, width))]).astype(np.int32)
    features = stream.features[rows[~is_label]].ravel()
    versions = [
        "" if label else stream.versions[row] for row, label in zip(rows, is_label, strict=True)
    ]
    return pa.record_batch(
        {
            "event_id": [f"e{row}" for row in rows],
            "time": pa.array(
                np.where(is_label, stream.known[rows], stream.times[rows]), pa.timestamp("ms")
            ),
            "label": pa.array(stream.labels[rows], mask=~is_label),
            "score": pa.array(stream.scores[rows], mask=is_label),
            "model_name": pa.array(np.where(is_label, "", stream.model)),
            "model_version": pa.array(versions),
            "variant": pa.array(np.where(is_label, "", "champion")),
            "features": pa.ListArray.from_arrays(pa.array(ends), pa.array(features)),
        }
    )


SCHEMA_ID = 7


def message(topic: str, offset: int, value: bytes | None, key: bytes = b"k") -> Message:
    return Message(topic=topic, partition=0, offset=offset, key=key, value=value, timestamp=(1, 5))


def records(file_name: str, rows: Sequence[dict[str, Any]]) -> MessageBatch:
    """Return records of a schema as a batch."""
    text = schema_text(file_name)
    values = [encode_one(text, SCHEMA_ID, row) for row in rows]
    return batch_of("in", [message("in", n, value) for n, value in enumerate(values)])


def decoder(reader: str, file_name: str) -> ColumnarDecoder:
    """Return a decoder of what `records` writes."""
    return ColumnarDecoder(reader, lambda _: schema_text(file_name))


def output_rows(handled: HandledBatch, file_name: str, topic: str) -> list[dict[str, Any]]:
    """Return what a handler writes to a topic."""
    text = schema_text(file_name)
    return [
        decode_one(value or b"", lambda _: text, text)
        for output in handled.outputs
        if output.topic == topic
        for value in output.values
    ]


def observation_batch(columns: pa.RecordBatch, first: int) -> MessageBatch:
    """Return observations as a batch of the monitor loop."""
    values = ColumnarEncoder(schema_text("observation.avsc"), SCHEMA_ID).encode(columns)
    return batch_of("o", [message("o", first + n, value) for n, value in enumerate(values)])


class MemoryHistory:
    """Committed observations and snapshots, in memory."""

    def __init__(self) -> None:
        self.columns: list[tuple[int, pa.RecordBatch]] = []
        self.states: list[DriftState] = []
        self.reads: list[tuple[int, int]] = []

    def newest_snapshot(self, deadline: Deadline) -> DriftState | None:
        return self.states[-1] if self.states else None

    def first_offset(self, deadline: Deadline) -> int:
        return 0

    def observations(self, start: int, end: int, deadline: Deadline) -> Iterator[Observations]:
        self.reads.append((start, end))
        for first, columns in self.columns:
            offsets = np.arange(first, first + len(columns))
            chosen = (offsets >= start) & (offsets < end)
            if chosen.any():
                yield observations_of(columns.filter(pa.array(chosen)), offsets[chosen])


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
