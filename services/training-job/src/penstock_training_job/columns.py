"""Records of predictions and interactions as columns, each with where it lies. Pure.

What cannot be read, or is no use for a training, is left out and counted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from penstock_schemas.codec import ColumnarDecoder, Resolve
from penstock_schemas.schema_files import schema_text

from penstock_training_job.topic_log import Chunk

_PREDICTION: Final = (
    "event_id", "event_time", "model_version", "variant", "scores", "features", "outcome",
)  # fmt: skip
_INTERACTION: Final = ("event_id", "label", "occurred_at")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which predictions are of interest.

    Parameters
    ----------
    width
        Number of features.
    variants
        Variants, such as champion.
    since_ms
        Earliest event time, milliseconds; None for any.
    model_version
        The one version; None for any.
    """

    width: int
    variants: tuple[str, ...]
    since_ms: int | None = None
    model_version: str | None = None


class PredictionColumns:
    """Decodes predictions to the columns partition, offset, event_id, event_time, score, features.

    Parameters
    ----------
    resolve
        Returns a writer's schema by its id.
    """

    def __init__(self, resolve: Resolve, wanted: Wanted) -> None:
        self._decoder = ColumnarDecoder(_projection("prediction.avsc", _PREDICTION), resolve)
        self._wanted = wanted

    def table(self, chunk: Chunk) -> pa.Table:
        """Return the predictions of a chunk that are wanted, features as float32 lists."""
        found = _located(self._decoder, chunk)
        wanted = self._wanted
        keep = pc.equal(found["outcome"], "predicted")
        variants = pa.array(wanted.variants)
        keep = pc.and_(keep, pc.is_in(found["variant"], value_set=variants))
        keep = pc.and_(keep, pc.equal(pc.list_value_length(found["features"]), wanted.width))
        keep = pc.and_(keep, pc.greater(pc.list_value_length(found["scores"]), 0))
        if wanted.since_ms is not None:
            keep = pc.and_(keep, pc.greater_equal(found["event_time"], wanted.since_ms))
        if wanted.model_version is not None:
            keep = pc.and_(keep, pc.equal(found["model_version"], wanted.model_version))
        found = found.filter(keep)
        return pa.table(
            {
                **{n: found[n] for n in ("partition", "offset", "event_id", "event_time")},
                "score": pc.list_element(found["scores"], 0),
                "features": found["features"],
            }
        )


class LabelColumns:
    """Decodes interactions to the columns partition, offset, event_id, label, occurred_at."""

    def __init__(self, resolve: Resolve) -> None:
        self._decoder = ColumnarDecoder(_projection("interaction.avsc", _INTERACTION), resolve)

    def table(self, chunk: Chunk) -> pa.Table:
        """Return the interactions of a chunk that say 0 or 1."""
        found = _located(self._decoder, chunk)
        return found.filter(pc.is_in(found["label"], value_set=pa.array([0.0, 1.0])))


def _projection(file: str, names: tuple[str, ...]) -> str:
    """Return a schema reduced to some of its fields."""
    schema: dict[str, Any] = json.loads(schema_text(file))
    return json.dumps(schema | {"fields": [f for f in schema["fields"] if f["name"] in names]})


def _located(decoder: ColumnarDecoder, chunk: Chunk) -> pa.Table:
    """Return the readable records with partition and offset; times as integer milliseconds."""
    decoded = decoder.decode(chunk.values)
    columns: dict[str, Any] = {
        "partition": pa.repeat(pa.scalar(chunk.partition, pa.int32()), len(decoded.rows)),
        "offset": pa.array(chunk.offsets[decoded.rows]),
    }
    for name, column in zip(decoded.columns.schema.names, decoded.columns.columns, strict=True):
        is_time = pa.types.is_timestamp(column.type)
        columns[name] = column.cast(pa.int64()) if is_time else column
    return pa.table(columns)
