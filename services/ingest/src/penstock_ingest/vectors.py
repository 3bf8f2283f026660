"""Columns of the FeatureVector (feature_vector.avsc)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from penstock_features.vectorizer import Matrix
from penstock_pipelines.model import PipelineConfig


@dataclass(frozen=True, slots=True)
class Origins:
    """Where events lie in the events topic; columns of n rows."""

    topic: str
    partitions: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]


def feature_vectors(
    config: PipelineConfig,
    columns: pa.RecordBatch,
    keys: pa.Array,
    origins: Origins,
    matrix: Matrix,
) -> pa.RecordBatch:
    """Return the columns to encode.

    Parameters
    ----------
    columns
        The events, n rows.
    keys
        Their entity keys, strings.
    matrix
        Shape (n, d), float32.
    """
    n, width = matrix.shape
    ends = np.arange(n + 1, dtype=np.int32) * np.int32(width)
    place = [pa.repeat(origins.topic, n), pa.array(origins.partitions), pa.array(origins.offsets)]
    return pa.record_batch(
        {
            "event_id": columns.column(config.event.id),
            "entity_key": keys,
            "event_time": columns.column(config.event.time),
            "pipeline": pa.repeat(config.pipeline, n),
            "origin": pa.StructArray.from_arrays(place, names=["topic", "partition", "offset"]),
            "features": pa.ListArray.from_arrays(pa.array(ends), pa.array(matrix.ravel())),
        }
    )
