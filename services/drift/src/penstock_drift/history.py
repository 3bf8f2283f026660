"""What the service has written before, read back after a start or an abort."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from penstock_monitoring.observations import Observations, observations_of
from penstock_schemas.codec import ColumnarDecoder, Resolve, decode_one
from penstock_schemas.records import DriftState
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import PipelineTopics
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

from penstock_drift.state_log import PartitionLog


class History(Protocol):
    """Committed snapshots and observations; `KafkaHistory` in service.

    Every method raises BrokerUnavailable if it is not done before the deadline.
    """

    def newest_snapshot(self, deadline: Deadline) -> DriftState | None:
        """Return the newest committed snapshot."""

    def first_offset(self, deadline: Deadline) -> int:
        """Return the first offset that the observations topic still holds."""

    def observations(self, start: int, end: int, deadline: Deadline) -> Iterator[Observations]:
        """Yield the observations from ``start`` to before ``end``, in order."""


class KafkaHistory:
    """The history of one pipeline.

    Parameters
    ----------
    kafka
        The cluster.
    topics
        Of the pipeline.
    resolve
        Returns the text of a schema id.
    """

    def __init__(self, kafka: KafkaSettings, topics: PipelineTopics, resolve: Resolve) -> None:
        self._states = PartitionLog(kafka, topics.drift_state)
        self._log = PartitionLog(kafka, topics.observations)
        self._resolve = resolve
        self._decoder = ColumnarDecoder(schema_text("observation.avsc"), resolve)

    def newest_snapshot(self, deadline: Deadline) -> DriftState | None:
        """Return the newest committed snapshot."""
        message = self._states.newest(deadline)
        if message is None:
            return None
        schema = schema_text("drift_state.avsc")
        return DriftState.from_dict(decode_one(message.value() or b"", self._resolve, schema))

    def first_offset(self, deadline: Deadline) -> int:
        """Return the first offset that the observations topic still holds."""
        return self._log.range(deadline)[0]

    def observations(self, start: int, end: int, deadline: Deadline) -> Iterator[Observations]:
        """Yield the observations from ``start`` to before ``end``, in order."""
        start = max(start, self.first_offset(deadline))
        for messages in self._log.read(start, end, deadline):
            # What cannot be decoded was a dead letter then and is left out again.
            decoded = self._decoder.decode([message.value() for message in messages])
            offsets = np.fromiter((m.offset() for m in messages), np.int64, len(messages))
            yield observations_of(decoded.columns, offsets[decoded.rows])
