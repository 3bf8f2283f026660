"""A batch of event records becomes FeatureVector records, dead letters and counted skips.

What happens to an event is `penstock_features.event_vectorizer`; here it gets the form of the
loop's batches and of ``feature_vector.avsc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from penstock_features.aggregates import AggregateTable
from penstock_features.event_vectorizer import EventVectorizer, PreparedEvents
from penstock_features.online import OnlineStore
from penstock_features.vectorizer import Matrix
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_streaming.handler import HandledBatch, MessageBatch, OutputColumns

from penstock_ingest.metrics import IngestMetrics

FIXED_OUTPUT_BYTES = 256
"""Room for all of a FeatureVector that is neither text of the event nor a feature."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch of records of which only the aggregates are missing."""

    batch: MessageBatch
    events: PreparedEvents


class IngestPipeline:
    """Turns message batches of one pipeline into feature vectors.

    Parameters
    ----------
    config
        The pipeline.
    decoder, encoder
        Of the event and of the FeatureVector.
    online
        None for a pipeline without feast features.
    max_output_bytes
        Largest key plus value that may be produced.
    """

    def __init__(
        self,
        config: PipelineConfig,
        decoder: ColumnarDecoder,
        encoder: ColumnarEncoder,
        *,
        online: OnlineStore | None,
        metrics: IngestMetrics,
        max_output_bytes: int,
    ) -> None:
        self._config = config
        self._encoder = encoder
        self._metrics = metrics
        self._vectorizer = EventVectorizer(
            config,
            decoder,
            online,
            max_text_bytes=max_output_bytes - FIXED_OUTPUT_BYTES - 4 * len(config.feature_names),
            timed=metrics.stage,
        )

    def prepare(self, batch: MessageBatch) -> Prepared:
        """Do everything that can fail or wait, as `EventVectorizer.prepare`."""
        return Prepared(batch, self._vectorizer.prepare(batch.values, batch.keys))

    def finish(self, prepared: Prepared, tables: Mapping[int, AggregateTable]) -> HandledBatch:
        """Add the events to the aggregates and return every row's outcome.

        Parameters
        ----------
        tables
            Aggregates by partition; empty for a pipeline without any.
        """
        events = prepared.events
        outputs: list[OutputColumns] = []
        if len(events.rows):
            partitions = prepared.batch.partitions[events.rows]
            matrix = self._vectorizer.vectorize(events, partitions, tables)
            with self._metrics.stage("encode"):
                outputs.append(self._encode(prepared.batch, events, matrix))
        return HandledBatch(
            outputs=outputs,
            dead_letters=events.dead_letters,
            skipped={"tombstone": events.tombstones} if events.tombstones else {},
            terminal=len(events.rows),
        )

    def _encode(self, batch: MessageBatch, events: PreparedEvents, matrix: Matrix) -> OutputColumns:
        rows = events.rows
        keys = list(batch.keys)
        if len(rows) < len(keys):
            keys = [keys[row] for row in rows.tolist()]
        if None in keys:
            entities = events.keys.to_pylist()
            keys = [e.encode() if k is None else k for k, e in zip(keys, entities, strict=True)]
        return OutputColumns(
            topic=self._config.topic_names.features,
            keys=keys,
            values=self._encoder.encode(self._columns(batch, events, matrix)),
            partitions=batch.partitions[rows].tolist(),
            rows=rows,
        )

    def _columns(
        self, batch: MessageBatch, events: PreparedEvents, matrix: Matrix
    ) -> pa.RecordBatch:
        """Return the columns of the FeatureVectors; the origin is the record's own place."""
        n, width = matrix.shape
        ends = np.arange(n + 1, dtype=np.int32) * np.int32(width)
        place = [
            pa.repeat(batch.topic, n),
            pa.array(batch.partitions[events.rows]),
            pa.array(batch.offsets[events.rows]),
        ]
        event = self._config.event
        return pa.record_batch(
            {
                "event_id": events.columns.column(event.id),
                "entity_key": events.keys,
                "event_time": events.columns.column(event.time),
                "pipeline": pa.repeat(self._config.pipeline, n),
                "origin": pa.StructArray.from_arrays(place, names=["topic", "partition", "offset"]),
                "features": pa.ListArray.from_arrays(pa.array(ends), pa.array(matrix.ravel())),
            }
        )
