"""A synthetic stream of predictions and labels whose change is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from penstock_drift.observations import Observations, observations_of
from penstock_monitoring.reference import (
    REFERENCE_FILE,
    SAMPLE_FILE,
    Reference,
    make_reference,
)

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
