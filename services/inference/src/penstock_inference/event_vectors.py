"""An event given by its named fields becomes the vector that the stream would make of it.

Same decoder, rules and features as ingest; the aggregates are read from what ingest writes back to
the online store, so they may be behind the stream by its write interval.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from penstock_features.aggregates import AggregateTable, warm_up
from penstock_features.arrow_columns import Floats, texts, times_ms
from penstock_features.online import OnlineStore
from penstock_features.rules import Rules
from penstock_features.vectorizer import Vectorizer
from penstock_pipelines.loader import LoadedPipeline
from penstock_schemas.codec import ColumnarDecoder
from penstock_schemas.errors import FatalError, FeatureStoreUnavailable

from penstock_inference.pipeline import EventVector


class EventVectors:
    """Makes vectors of single events. Not thread-safe: one object per thread.

    Parameters
    ----------
    pipeline
        The pipeline.
    feast_repo
        Its Feast repository.
    """

    def __init__(self, pipeline: LoadedPipeline, feast_repo: Path) -> None:
        config = pipeline.config
        self._config = config
        self._decoder = ColumnarDecoder(
            pipeline.event_schema,
            _no_registry,
            json_allowed=True,
            max_bytes=config.limits.max_event_bytes,
        )
        self._rules = Rules(config.rules)
        self._vectorizer = Vectorizer(config)
        self._online = OnlineStore(feast_repo, config) if config.feast is not None else None
        self._table = AggregateTable(config)

    def warm_up(self) -> None:
        """Do once what the first event would wait for."""
        warm_up(self._config)
        if self._online is not None:
            with suppress(FeatureStoreUnavailable):  # it may be filled later; each read tries again
                self._online.connect()
                self._online.read(["warm-up"])

    def vector(self, body: bytes) -> EventVector:
        """Return the vector of a JSON event.

        Raises
        ------
        RecordError
            The event is not what the pipeline takes; names field, expected and got.
        FeatureStoreUnavailable
            The online store does not answer.
        """
        decoded = self._decoder.decode([body])
        for _, error in decoded.errors:
            raise error
        columns = decoded.columns
        for _, violation in self._rules.violations(columns):
            raise violation
        part = self._vectorizer.event_part(columns)
        for _, violation in part.violations:
            raise violation
        event = self._config.event
        found = texts(columns.column(event.key))[0].as_py()
        key = "" if found is None else str(found)  # no entity: a history of none
        matrix = self._vectorizer.complete(
            part.matrix,
            self._aggregates(key, columns),
            self._online.read([key]) if self._online else {},
        )
        return EventVector(
            event_id=str(columns.column(event.id)[0].as_py()),
            key=key,
            time_ms=int(times_ms(columns.column(event.time))[0]),
            inputs=_plain(columns),
            matrix=matrix,
        )

    def _aggregates(self, key: str, columns: pa.RecordBatch) -> Floats:
        layout = self._table.layout
        if not layout.names:
            return np.empty((1, 0), dtype=np.float64)
        table = AggregateTable(layout)
        state = self._online.read_states([key])[0] if self._online else None
        if state is not None and state.shape == (layout.width,):
            table.load([key], state.reshape(1, -1))
        times = times_ms(columns.column(self._config.event.time))
        return table.peek([key], times, layout.values(columns))


def _plain(columns: pa.RecordBatch) -> dict[str, Any]:
    """Return the one row as JSON values, times as milliseconds."""
    row: dict[str, Any] = {}
    for name, column in zip(columns.schema.names, columns.columns, strict=True):
        is_time = pa.types.is_timestamp(column.type)
        row[name] = (
            int(times_ms(column)[0]) if is_time and column[0].is_valid else column[0].as_py()
        )
    return row


def _no_registry(schema_id: int) -> str:
    raise FatalError(f"a JSON event names no schema, and yet {schema_id} was asked for")
