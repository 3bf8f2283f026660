"""The pure core: a batch of messages becomes feature vectors, dead letters and counted skips.

Two steps. `prepare` does everything that can fail or wait and changes no state; `finish` takes the
events into the aggregates, cannot be refused, and must be called once per batch in order. So a
batch that is tried again because the registry or Feast was away leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from penstock_features.aggregates import AggregateTable
from penstock_features.arrow_columns import Floats, texts, times_ms
from penstock_features.rules import Rules
from penstock_features.vectorizer import Matrix, Vectorizer
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_schemas.errors import FatalError, Oversize, RecordError, RuleViolation
from penstock_streaming.handler import HandledBatch, MessageBatch, OutputColumns

from penstock_ingest.metrics import IngestMetrics
from penstock_ingest.vectors import Origins, feature_vectors

FIXED_OUTPUT_BYTES = 256
"""Room for all of a FeatureVector that is neither text of the event nor a feature."""


class OnlineReader(Protocol):
    """Reads online features; `penstock_features.online.OnlineStore` in service."""

    def read(self, keys: Sequence[str]) -> Mapping[str, Floats]:
        """Return by ``view:feature`` the values of entities, NaN where not known."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch of which only the aggregates are missing.

    Parameters
    ----------
    rows
        Row in the batch of each good event, shape (n,), ascending.
    columns
        The good events.
    keys
        Their entity keys, strings.
    matrix
        Shape (n, d); the aggregates are not filled in yet.
    online
        By ``view:feature``, shape (n,).
    dead_letters
        The rows that end here, ascending.
    """

    batch: MessageBatch
    rows: npt.NDArray[np.int64]
    columns: pa.RecordBatch
    keys: pa.Array
    matrix: Matrix
    online: Mapping[str, Floats]
    dead_letters: list[tuple[int, RecordError]]
    tombstones: int


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
        online: OnlineReader | None,
        metrics: IngestMetrics,
        max_output_bytes: int,
    ) -> None:
        self._config = config
        self._decoder = decoder
        self._encoder = encoder
        self._online = online
        self._metrics = metrics
        self._rules = Rules(config.rules)
        self._vectorizer = Vectorizer(config)
        self._text_budget = (
            max_output_bytes - FIXED_OUTPUT_BYTES - 4 * len(self._vectorizer.feature_names)
        )

    def prepare(self, batch: MessageBatch) -> Prepared:
        """Decode, check and read what is needed from outside.

        Raises
        ------
        RegistryUnavailable, FeatureStoreUnavailable
            Nothing has changed: try the same batch again.
        """
        with self._metrics.stage("decode"):
            decoded = self._decoder.decode(batch.values)
        dead = list(decoded.errors)
        columns, rows = decoded.columns, decoded.rows
        with self._metrics.stage("validate"):
            part = self._vectorizer.event_part(columns)
            broken: dict[int, RecordError] = {}
            # The first reason found is the one the producer reads.
            for row, error in (
                *self._refused(batch, rows, columns),
                *self._rules.violations(columns),
                *part.violations,
            ):
                broken.setdefault(row, error)
        matrix = part.matrix
        if broken:
            dead.extend((int(rows[row]), error) for row, error in broken.items())
            kept = np.delete(np.arange(len(rows)), list(broken))
            columns, rows, matrix = columns.take(pa.array(kept)), rows[kept], matrix[kept]
        keys = texts(columns.column(self._config.event.key))
        return Prepared(
            batch=batch,
            rows=rows,
            columns=columns,
            keys=keys,
            matrix=matrix,
            online=self._read_online(keys),
            dead_letters=sorted(dead, key=lambda item: item[0]),
            tombstones=len(decoded.tombstones),
        )

    def finish(self, prepared: Prepared, tables: Mapping[int, AggregateTable]) -> HandledBatch:
        """Take the events into the aggregates and return every row's outcome.

        Parameters
        ----------
        tables
            Aggregates by partition; empty for a pipeline without any.
        """
        outputs: list[OutputColumns] = []
        if len(prepared.rows):
            with self._metrics.stage("aggregate"):
                aggregates = self._aggregate(prepared, tables)
                matrix = self._vectorizer.complete(prepared.matrix, aggregates, prepared.online)
            with self._metrics.stage("encode"):
                outputs.append(self._encode(prepared, matrix))
        return HandledBatch(
            outputs=outputs,
            dead_letters=prepared.dead_letters,
            skipped={"tombstone": prepared.tombstones} if prepared.tombstones else {},
            terminal=len(prepared.rows),
        )

    def _refused(
        self, batch: MessageBatch, rows: npt.NDArray[np.int64], columns: pa.RecordBatch
    ) -> list[tuple[int, RecordError]]:
        """Find events without a required key, and those whose output could not be produced.

        The latter must be known before an event is counted into the aggregates.
        """
        event, none = self._config.event, -1
        lengths = pc.binary_length(pa.array(batch.keys, type=pa.binary())).cast(pa.int64())
        sent = lengths.fill_null(none).to_numpy()[rows]
        result: list[tuple[int, RecordError]] = []
        if event.key_required:
            result.extend(
                (row, RuleViolation("the record has no key", expected="a key", got="null"))
                for row in np.flatnonzero(sent == none).tolist()
            )
        entity = pc.binary_length(texts(columns.column(event.key))).cast(pa.int64()).to_numpy()
        total = pc.binary_length(columns.column(event.id)).cast(pa.int64()).to_numpy() + entity
        total = total + np.where(sent == none, entity, sent)
        limit = self._text_budget
        result.extend(
            (
                row,
                Oversize(
                    "the feature vector would be too large to produce",
                    expected=f"keys and id of at most {limit} bytes together",
                    got=f"{total[row]} bytes",
                ),
            )
            for row in np.flatnonzero(total > limit).tolist()
        )
        return result

    def _read_online(self, keys: pa.Array) -> Mapping[str, Floats]:
        if self._online is None or not len(keys):
            return {}
        with self._metrics.stage("online"):
            encoded = keys.dictionary_encode()
            values = self._online.read(encoded.dictionary.to_pylist())
            index = encoded.indices.to_numpy()
            return {name: column[index] for name, column in values.items()}

    def _aggregate(self, prepared: Prepared, tables: Mapping[int, AggregateTable]) -> Floats:
        if not tables:
            return np.empty((len(prepared.rows), 0), dtype=np.float64)
        layout = next(iter(tables.values())).layout
        values = layout.values(prepared.columns)
        times = times_ms(prepared.columns.column(self._config.event.time))
        partitions = prepared.batch.partitions[prepared.rows]
        result = np.empty((len(partitions), len(layout.names)), dtype=np.float64)
        for partition in np.unique(partitions).tolist():
            if partition not in tables:
                raise FatalError(f"no aggregate state of partition {partition}: not assigned to us")
            at = np.flatnonzero(partitions == partition)
            keys = prepared.keys.take(pa.array(at))
            result[at] = tables[partition].update(keys, times[at], values[at])
        return result

    def _encode(self, prepared: Prepared, matrix: Matrix) -> OutputColumns:
        batch, rows = prepared.batch, prepared.rows
        partitions = batch.partitions[rows]
        origins = Origins(batch.topic, partitions, batch.offsets[rows])
        vectors = feature_vectors(self._config, prepared.columns, prepared.keys, origins, matrix)
        keys = list(batch.keys)
        if len(rows) < len(keys):
            keys = [keys[row] for row in rows.tolist()]
        if None in keys:
            entities = prepared.keys.to_pylist()
            keys = [e.encode() if k is None else k for k, e in zip(keys, entities, strict=True)]
        return OutputColumns(
            topic=self._config.topic_names.features,
            keys=keys,
            values=self._encoder.encode(vectors),
            partitions=partitions.tolist(),
            rows=rows,
        )
