"""The monitor's state: its snapshot, and what is read back after a start or an abort.

A snapshot holds detectors and journal; the label join is rebuilt from the observations before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Final, Protocol

import numpy as np
from penstock_monitoring.label_join import REBUILT_FROM
from penstock_monitoring.observations import PARTITION, Observations, observations_of
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.codec import ColumnarDecoder, Resolve, decode_one
from penstock_schemas.records import DriftState
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import PipelineTopics
from penstock_streaming.log_view import LogView, Span
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

from penstock_drift.monitor import DriftMonitor

FORMAT: Final = 2
"""Raised whenever the state's meaning changes."""


def layout_of(config: PipelineConfig) -> str:
    """Return the digest of what a state depends on."""
    facts = {
        "format": FORMAT,
        "monitor": config.monitor.model_dump(mode="json"),
        "labels": config.labels.model_dump(mode="json"),
        "columns": config.monitored_features,
        "width": len(config.feature_names),
    }
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def rebuilt_from(config: PipelineConfig, offset: int) -> int:
    """Return the first observation that the label join at ``offset`` depends on."""
    return max(0, offset - REBUILT_FROM * config.labels.max_waiting)


def snapshot(config: PipelineConfig, monitor: DriftMonitor, offset: int) -> DriftState:
    """Return the state of a monitor that has seen all before ``offset``."""
    losses, expected, times = monitor.error.journal_bytes()
    return DriftState(
        layout=layout_of(config),
        offset=offset,
        join_from=rebuilt_from(config, offset),
        detectors=json.dumps(monitor.state(), separators=(",", ":")).encode(),
        errors=losses,
        error_times=times,
        expected=expected,
    )


def restore(monitor: DriftMonitor, state: DriftState) -> None:
    """Give a new monitor the state of a snapshot; its reference must be loaded."""
    journal = state.errors, state.expected, state.error_times
    monitor.restore(json.loads(state.detectors), journal)


def watched_version(state: DriftState) -> tuple[str, str] | None:
    """Return model name and version of the champion in a snapshot, if there is one."""
    current = json.loads(state.detectors)["succession"]["current"]
    return current and (str(current[0]), str(current[1]))


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
        self._view = LogView(kafka)
        self._states = topics.drift_state, PARTITION
        self._observations = topics.observations, PARTITION
        self._resolve = resolve
        self._decoder = ColumnarDecoder(schema_text("observation.avsc"), resolve)

    def newest_snapshot(self, deadline: Deadline) -> DriftState | None:
        """Return the newest committed snapshot."""
        message = self._view.newest(self._states, deadline)
        if message is None:
            return None
        schema = schema_text("drift_state.avsc")
        return DriftState.from_dict(decode_one(message.value() or b"", self._resolve, schema))

    def first_offset(self, deadline: Deadline) -> int:
        """Return the first offset that the observations topic still holds."""
        partition = self._observations
        return self._view.begin_offsets([partition], deadline)[partition]

    def observations(self, start: int, end: int, deadline: Deadline) -> Iterator[Observations]:
        """Yield the observations from ``start`` to before ``end``, in order."""
        span = Span(max(start, self.first_offset(deadline)), end)
        for messages in self._view.read({self._observations: span}, deadline):
            # What cannot be decoded was a dead letter then and is left out again.
            decoded = self._decoder.decode([message.value() for message in messages])
            offsets = np.fromiter((m.offset() for m in messages), np.int64, len(messages))
            yield observations_of(decoded.columns, offsets[decoded.rows])
