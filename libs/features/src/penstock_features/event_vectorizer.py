"""From raw events to feature vectors: decode, validate, enrich, vectorise. No Kafka in here.

The one stage of the stream (ingest) and of REST (inference); a process that wants vectors of
events calls it. Two steps: `EventVectorizer.prepare` does everything that can fail or wait and
changes no state, so a batch that is tried again because the registry or Feast was away leaves no
trace. `vectorize` then adds the events to the aggregates; it is called once per batch, in order.
`vectorize_from` computes the same vectors from given states and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.codec import ColumnarDecoder
from penstock_schemas.errors import FatalError, Oversize, RecordError, RuleViolation

from penstock_features.aggregates import AggregateLayout, AggregateTable
from penstock_features.arrow_columns import Floats, texts, times_ms
from penstock_features.online import OnlineStore
from penstock_features.rules import Rules
from penstock_features.vectorizer import Matrix, Vectorizer

Stage = Literal["decode", "validate", "online", "aggregate"]


@dataclass(frozen=True, slots=True)
class PreparedEvents:
    """A batch of events of which only the aggregates are missing.

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
        (row, why) of the refused events, ascending.
    tombstones
        Number of rows without a value.
    """

    rows: npt.NDArray[np.int64]
    columns: pa.RecordBatch
    keys: pa.Array
    matrix: Matrix
    online: Mapping[str, Floats]
    dead_letters: list[tuple[int, RecordError]]
    tombstones: int


class EventVectorizer:
    """Turns batches of one pipeline's raw events into feature vectors. Not thread-safe.

    Parameters
    ----------
    config
        The pipeline.
    decoder
        Of the events.
    online
        None for a pipeline without feast features.
    max_text_bytes
        An event whose id, entity key and record key are longer together is refused.
    timed
        Returns a context manager that times a stage.
    """

    def __init__(
        self,
        config: PipelineConfig,
        decoder: ColumnarDecoder,
        online: OnlineStore | None,
        *,
        max_text_bytes: int | None = None,
        timed: Callable[[Stage], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self._event = config.event
        self._decoder = decoder
        self._online = online
        self._max_text_bytes = max_text_bytes
        self._timed = timed
        self._rules = Rules(config.rules)
        self._vectorizer = Vectorizer(config)
        self._layout = AggregateLayout(config)

    def prepare(
        self, values: Sequence[bytes | None], record_keys: Sequence[bytes | None] | None = None
    ) -> PreparedEvents:
        """Decode, check and read what is needed from outside.

        Parameters
        ----------
        values
            Framed Avro, or JSON where the decoder takes it; None is a tombstone.
        record_keys
            Kafka keys of the records; None where the events are no records.

        Raises
        ------
        RegistryUnavailable, FeatureStoreUnavailable
            Nothing has changed: try the same batch again.
        """
        with self._timed("decode"):
            decoded = self._decoder.decode(values)
        dead = list(decoded.errors)
        columns, rows = decoded.columns, decoded.rows
        with self._timed("validate"):
            part = self._vectorizer.event_part(columns)
            broken: dict[int, RecordError] = {}
            # The first reason found is the one in the dead letter.
            for row, error in (
                *self._refused(record_keys, rows, columns),
                *self._rules.violations(columns),
                *part.violations,
            ):
                broken.setdefault(row, error)
        matrix = part.matrix
        if broken:
            dead.extend((int(rows[row]), error) for row, error in broken.items())
            kept = np.delete(np.arange(len(rows)), list(broken))
            columns, rows, matrix = columns.take(pa.array(kept)), rows[kept], matrix[kept]
        keys = texts(columns.column(self._event.key)).fill_null("")  # no entity: no history
        return PreparedEvents(
            rows=rows,
            columns=columns,
            keys=keys,
            matrix=matrix,
            online=self._read_online(keys),
            dead_letters=sorted(dead, key=lambda item: item[0]),
            tombstones=len(decoded.tombstones),
        )

    def vectorize(
        self,
        prepared: PreparedEvents,
        partitions: npt.NDArray[np.int32],
        tables: Mapping[int, AggregateTable],
    ) -> Matrix:
        """Return the vectors, and add the events to the aggregates.

        Parameters
        ----------
        partitions
            Partition of each good event, shape (n,).
        tables
            Aggregates by partition; empty for a pipeline without any. What has changed is in
            `AggregateTable.changed_rows`.

        Returns
        -------
        Shape (n, d), float32.

        Raises
        ------
        FatalError
            If the aggregates of a partition are not there.
        """
        with self._timed("aggregate"):
            result = np.empty((len(partitions), len(self._layout.names)), dtype=np.float64)
            if self._layout.names:
                times, values = self._times_and_values(prepared)
                for partition in np.unique(partitions).tolist():
                    if partition not in tables:
                        raise FatalError(
                            f"no aggregate state of partition {partition}: not assigned to us"
                        )
                    at = np.flatnonzero(partitions == partition)
                    keys = prepared.keys.take(pa.array(at))
                    result[at] = tables[partition].update(keys, times[at], values[at])
            return self._vectorizer.complete(prepared.matrix, result, prepared.online)

    def vectorize_from(self, prepared: PreparedEvents, states: Sequence[Floats | None]) -> Matrix:
        """Return the vectors that `vectorize` would make of each event alone, and change nothing.

        Parameters
        ----------
        states
            State vector of each event's entity; None, or one of another layout, is no history.
        """
        table = AggregateTable(self._layout)
        for key, state in zip(prepared.keys.to_pylist(), states, strict=True):
            if state is not None:
                table.load_vectors([key], state.reshape(1, -1))
        result = table.peek(prepared.keys, *self._times_and_values(prepared))
        return self._vectorizer.complete(prepared.matrix, result, prepared.online)

    def _times_and_values(self, prepared: PreparedEvents) -> tuple[npt.NDArray[np.int64], Floats]:
        columns = prepared.columns
        return times_ms(columns.column(self._event.time)), self._layout.values(columns)

    def _refused(
        self,
        record_keys: Sequence[bytes | None] | None,
        rows: npt.NDArray[np.int64],
        columns: pa.RecordBatch,
    ) -> list[tuple[int, RecordError]]:
        """Find events without a required key, and those whose vector could not be produced.

        The latter must be known before an event is counted into the aggregates.
        """
        if record_keys is None:
            return []
        none = -1
        sent = _lengths(pa.array(record_keys, type=pa.binary()), none)[rows]
        result: list[tuple[int, RecordError]] = []
        if self._event.key_required:
            result.extend(
                (row, RuleViolation("the record has no key", expected="a key", got="null"))
                for row in np.flatnonzero(sent == none).tolist()
            )
        limit = self._max_text_bytes
        if limit is None:
            return result
        entity = (
            pc.binary_length(texts(columns.column(self._event.key))).cast(pa.int64()).to_numpy()
        )
        total = (
            pc.binary_length(columns.column(self._event.id)).cast(pa.int64()).to_numpy() + entity
        )
        total = total + np.where(sent == none, entity, sent)
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
        with self._timed("online"):
            encoded = keys.dictionary_encode()
            values = self._online.read(encoded.dictionary.to_pylist())
            index = encoded.indices.to_numpy()
            return {name: column[index] for name, column in values.items()}


def _lengths(column: pa.Array, of_null: int = 0) -> npt.NDArray[np.int64]:
    """Return the length of each text in bytes."""
    lengths = pc.binary_length(column).cast(pa.int64()).fill_null(of_null)
    result: npt.NDArray[np.int64] = lengths.to_numpy()
    return result
