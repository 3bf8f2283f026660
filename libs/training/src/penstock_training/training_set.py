"""Training sets of the first model, made with the stream's own feature code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import fastavro
import numpy as np
import pandas as pd
import pyarrow as pa
from penstock_features.history import history
from penstock_pipelines.loader import LoadedPipeline
from penstock_pipelines.model import Bootstrap
from penstock_schemas.errors import ConfigError
from penstock_simulator.generators import make_generator

from penstock_training.trainers import Matrix, Vector

HISTORY_END_MS: Final = 1_760_000_000_000
"""Simulated time at which the training history ends: fixed, so that it is the same every time."""
HOLDOUT_SHARE: Final = 0.25
"""Share of the rows, the last in time, that only measure the model."""
_ARROW: Final[dict[str, Any]] = {
    "string": pa.string(),
    "enum": pa.string(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "timestamp-millis": pa.timestamp("ms"),
    "timestamp-micros": pa.timestamp("us"),
    "date": pa.date32(),
}


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Features and labels in time order.

    Parameters
    ----------
    matrix
        Shape (n, d), float32, finite.
    labels
        Shape (n,), 0 or 1.
    names
        Name of each column.
    source
        Where the rows come from, for the manifest.
    """

    matrix: Matrix
    labels: Vector
    names: tuple[str, ...]
    source: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sha256(self) -> str:
        """Digest of names, features and labels."""
        digest = hashlib.sha256(json.dumps(self.names).encode())
        digest.update(np.ascontiguousarray(self.matrix, dtype="<f4").tobytes())
        digest.update(np.ascontiguousarray(self.labels, dtype="<f8").tobytes())
        return digest.hexdigest()

    def manifest(self) -> dict[str, Any]:
        """Return what identifies the set: source, rows, digest, columns."""
        return {
            "source": self.source,
            "rows": len(self),
            "positives": int(self.labels.sum()),
            "sha256": self.sha256,
            "features": list(self.names),
        }

    def split(self) -> tuple[TrainingSet, TrainingSet]:
        """Return the earlier rows to fit on and the later ones to measure on."""
        cut = int(len(self) * (1.0 - HOLDOUT_SHARE))
        parts = [slice(0, cut), slice(cut, None)]
        first, second = (
            TrainingSet(self.matrix[p], self.labels[p], self.names, self.source) for p in parts
        )
        return first, second


def training_set(pipeline: LoadedPipeline) -> TrainingSet:
    """Return the training set that pipeline.yaml's ``model.bootstrap`` asks for.

    Raises
    ------
    ConfigError
        If the simulator is unknown, or the file does not fit the event schema.
    """
    bootstrap = pipeline.config.model.bootstrap
    if bootstrap.data is not None:
        return _from_file(pipeline, pipeline.folder / bootstrap.data, bootstrap.label)
    return _from_simulator(pipeline, bootstrap)


def profiles(pipeline: LoadedPipeline) -> pd.DataFrame | None:
    """Return what is known of the entities from the start; None without a simulator."""
    name = pipeline.config.model.bootstrap.simulator
    return None if name is None else make_generator(name, seed=0).profiles()


def _from_simulator(pipeline: LoadedPipeline, bootstrap: Bootstrap) -> TrainingSet:
    generator = make_generator(str(bootstrap.simulator), bootstrap.seed)
    rate = generator.events_per_s
    start_ms = generator.start_before(HISTORY_END_MS, bootstrap.events, rate)
    batch = generator.generate(bootstrap.events, start_ms, rate)
    feast = pipeline.config.feast
    known = generator.profiles()
    if feast is not None:
        known = known.set_index(feast.entity).loc[batch.keys]
    source = bootstrap.model_dump(exclude_none=True, exclude={"label"})
    return _vectorised(pipeline, batch.columns, batch.labels, known, source)


def _from_file(pipeline: LoadedPipeline, path: Path, label: str) -> TrainingSet:
    frame = pd.read_csv(path)
    if label not in frame.columns:
        raise ConfigError(f"{path}: expected a column {label!r}, got {', '.join(frame.columns)}")
    time_field = pipeline.config.event.time
    columns = _columns(pipeline, frame, path)
    order = pa.array(np.argsort(columns.column(time_field).cast(pa.int64()), kind="stable"))
    labels = frame[label].to_numpy(dtype=np.float64)[order.to_numpy()]
    known = pd.DataFrame(index=range(len(frame)))
    source = {"data": path.name, "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return _vectorised(pipeline, columns.take(order), labels, known, source)


def _columns(pipeline: LoadedPipeline, frame: pd.DataFrame, path: Path) -> pa.RecordBatch:
    """Return the file's columns typed as the event's; an event id is made up if missing."""
    event = pipeline.config.event
    if event.id not in frame.columns:
        frame = frame.assign(**{event.id: [f"row-{i}" for i in range(len(frame))]})
    schema: Any = fastavro.parse_schema(json.loads(pipeline.event_schema))
    arrays: dict[str, pa.Array] = {}
    for avro in schema["fields"]:
        name = avro["name"]
        if name not in frame.columns:
            if "default" not in avro:
                raise ConfigError(f"{path}: expected a column {name!r} as in the event schema")
            frame = frame.assign(**{name: avro["default"]})
        arrays[name] = _column(frame[name], avro["type"], f"{path}: column {name!r}")
    return pa.RecordBatch.from_pydict(arrays)


def _column(values: pd.Series, avro: Any, what: str) -> pa.Array:
    options = [o for o in (avro if isinstance(avro, list) else [avro]) if o != "null"]
    only = options[0] if len(options) == 1 else "union"
    kind = only.get("logicalType", only["type"]) if isinstance(only, dict) else only
    if kind not in _ARROW:
        raise ConfigError(f"{what}: expected a plain type in the event schema, got {kind}")
    target = _ARROW[kind]
    try:
        if pa.types.is_timestamp(target) and values.dtype == object:
            return pa.array(pd.to_datetime(values, utc=True)).cast(target)
        if pa.types.is_string(target):
            return pa.array(values.astype(object).where(values.notna(), None)).cast(target)
        return pa.array(values, from_pandas=True).cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as exc:
        raise ConfigError(f"{what}: expected {kind}, got {exc}") from exc


def _vectorised(
    pipeline: LoadedPipeline,
    columns: pa.RecordBatch,
    labels: Vector,
    known: pd.DataFrame,
    source: dict[str, Any],
) -> TrainingSet:
    config = pipeline.config
    online = {}
    for name in {f.feast for f in config.features if f.feast}:
        column = name.split(":")[1]
        there = column in known.columns
        online[name] = known[column].to_numpy(np.float64) if there else np.full(len(labels), np.nan)
    matrix = history(config, columns, online)
    usable = np.isfinite(matrix).all(axis=1) & np.isfinite(labels)
    if not usable.any():
        raise ConfigError(f"pipeline {config.pipeline!r}: no usable row in the training data")
    return TrainingSet(matrix[usable], labels[usable], config.feature_names, source)
