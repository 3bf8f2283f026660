"""An event given by its named fields becomes the vector that the stream would make of it.

The stage is ingest's (`penstock_features.event_vectorizer`); the aggregates are read from what
ingest writes back to the online store, so they may be behind the stream by its write interval.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from penstock_features.aggregates import warm_up
from penstock_features.arrow_columns import times_ms
from penstock_features.event_vectorizer import EventVectorizer
from penstock_features.online import OnlineStore
from penstock_pipelines.loader import LoadedPipeline
from penstock_schemas.codec import ColumnarDecoder
from penstock_schemas.errors import FatalError, FeatureStoreUnavailable

from penstock_inference.predictions import EventVector


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
        self._online = OnlineStore(feast_repo, config) if config.feast is not None else None
        decoder = ColumnarDecoder(
            pipeline.event_schema,
            _no_registry,
            json_allowed=True,
            max_bytes=config.limits.max_event_bytes,
        )
        self._events = EventVectorizer(config, decoder, self._online)

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
        events = self._events.prepare([body])
        for _, error in events.dead_letters:
            raise error
        keys = events.keys.to_pylist()
        states = self._online.read_states(keys) if self._online else [None]
        columns, event = events.columns, self._config.event
        return EventVector(
            event_id=str(columns.column(event.id)[0].as_py()),
            key=keys[0],
            time_ms=int(times_ms(columns.column(event.time))[0]),
            inputs=_plain(columns),
            matrix=self._events.vectorize_from(events, states),
        )


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
