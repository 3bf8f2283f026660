"""The drift service's inputs, a stream whose change is known, and the service as a process."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import yaml
from confluent_kafka import Message, Producer
from harness.clients import avro_encoder, register_schema
from harness.kafka import own_topics, read_topic
from harness.services import ServiceProcess, service_settings
from penstock_monitoring.observations import Observations, observations_of
from penstock_monitoring.reference import (
    REFERENCE_FILE,
    SAMPLE_FILE,
    Reference,
    make_reference,
)
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
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


FRAUD = Path(__file__).parents[2] / "pipelines" / "fraud"
WAIT_S = 120.0


@dataclass
class DriftService:
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
    process: ServiceProcess | None = None
    encoders: dict[str, Any] = field(default_factory=dict)

    @property
    def topics(self) -> Any:
        return self.loaded.config.topic_names

    @property
    def reports(self) -> Path:
        return self.folder / "reports" / self.loaded.config.pipeline

    def start(self, **extra: str) -> None:
        """Start the service and wait for nothing."""
        settings = service_settings(
            "drift",
            kafka=self.bootstrap,
            registry=self.registry_url,
            pipelines=[self.loaded.folder],
            run_dir=self.folder / "run",
            MLFLOW_URL=self.mlflow_url,
            REPORTS_DIR=self.folder / "reports",
        )
        self.process = ServiceProcess("drift", {**settings, **extra})

    def metric(self, name: str, **labels: str) -> float | None:
        """Return a sample whose labels include those given."""
        return self.process.metric(name, **labels) if self.process is not None else None

    def stop(self) -> int:
        """Ask it to drain and end; return its exit code."""
        assert self.process is not None
        return self.process.stop()

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
        return avro_encoder(text, register_schema(self.registry_url, f"{topic}-value", text))

    def read(self, topic: str, rows: int = 0) -> list[Message]:
        """Read a topic from its start until ``rows`` records are there and a second is quiet."""
        return read_topic(self.bootstrap, topic, rows=rows, quiet_s=1.0, deadline_s=WAIT_S)

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
def drift_service(
    bootstrap: str, registry_url: str, mlflow_url: str, folder: Path, sections: dict[str, Any]
) -> Iterator[DriftService]:
    """Make a service; ``sections`` take the place of those in its pipeline.yaml."""
    name = f"drift-{uuid.uuid4().hex[:8]}"
    shutil.copytree(FRAUD, folder / name)
    shipped = yaml.safe_load((FRAUD / "pipeline.yaml").read_text())
    text = yaml.safe_dump({**shipped, **sections, "pipeline": name})
    (folder / name / "pipeline.yaml").write_text(text)
    loaded = load_pipeline(folder / name)
    topics = loaded.config.topic_names.all(loaded.config.partitions)
    service = DriftService(bootstrap, registry_url, mlflow_url, loaded, folder)
    with own_topics(bootstrap, topics):
        try:
            yield service
        finally:
            if service.process is not None:
                service.process.end()
