"""The handler of the monitor loop: the pure core in step with the transaction.

Drift events, retrain requests, snapshot and offsets are one transaction. The state is that of the
last snapshot plus all that was committed since, which is processed again without writing anything.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from penstock_monitoring.observations import PARTITION, Observations, observations_of
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.codec import ColumnarDecoder, encode_one
from penstock_schemas.records import DriftEvent
from penstock_schemas.schema_files import schema_text
from penstock_streaming.handler import Completed, HandledBatch, MessageBatch, OutputColumns
from penstock_streaming.timing import Deadline

from penstock_drift.metrics import DriftMetrics
from penstock_drift.monitor import DriftMonitor, Outcome
from penstock_drift.references import References
from penstock_drift.state import History, layout_of, restore, snapshot, watched_version

logger = logging.getLogger(__name__)

CATCH_UP_S = 60.0
"""Longest time for one attempt to process again what was committed since the snapshot, seconds."""


@dataclass(frozen=True, slots=True)
class SchemaIds:
    """Registry ids of what the monitor loop writes."""

    drift: int
    retrain: int
    drift_state: int


@dataclass(frozen=True, slots=True)
class Sources:
    """What the handler reads beside its input."""

    decoder: ColumnarDecoder
    history: History
    references: References


@dataclass(slots=True)
class Uncommitted:
    """Counts since the last commit, for the metrics."""

    labels: Counter[str] = field(default_factory=Counter)
    events: list[DriftEvent] = field(default_factory=list)
    requests: int = 0
    observations: int = 0
    snapshot_bytes: int = 0


class MonitorHandler:
    """Handler of one pipeline's observations.

    Parameters
    ----------
    config
        The pipeline.
    sources
        What is read.
    schema_ids
        Of what is written.
    metrics
        Of the pipeline.
    snapshot_every_s
        Least time between two snapshots, seconds.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        config: PipelineConfig,
        sources: Sources,
        schema_ids: SchemaIds,
        metrics: DriftMetrics,
        snapshot_every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._sources = sources
        self._ids = schema_ids
        self._metrics = metrics
        self._snapshot_every_s = snapshot_every_s
        self._clock = clock
        self._layout = layout_of(config)
        self._monitor = self._new_monitor()
        self._at = 0
        self._is_restoring = True
        self._is_fresh = False
        self._last_snapshot = clock()
        self._open = Uncommitted()

    def submit(self, batch: MessageBatch) -> Completed:
        """Process a batch.

        Raises
        ------
        RetryableError
            Registry, tracking server or broker do not answer. Nothing of the batch is processed.
        """
        decoded = self._sources.decoder.decode(batch.values)
        observed = observations_of(decoded.columns, batch.offsets[decoded.rows])
        self._load_references(observed)
        if self._is_restoring:
            self._catch_up(int(batch.offsets[0]))
        # Offsets before the state's come only after the group's offsets were reset to earlier ones.
        fresh = observed.after(self._at)
        outcome = self._monitor.process(fresh)
        self._at = max(self._at, int(batch.offsets[-1]) + 1)
        self._note(outcome, len(fresh))
        handled = HandledBatch(
            outputs=_outputs_of(self._config, self._ids, outcome),
            dead_letters=list(decoded.errors),
            skipped={
                "observed": len(fresh),
                "repeated": len(observed) - len(fresh),
                "tombstone": len(decoded.tombstones),
            },
        )
        return Completed(handled)

    def assigned(self, partitions: Sequence[int], deadline_s: float) -> None:
        """Restore the state as of the newest snapshot; what came since follows with the next batch.

        Raises
        ------
        RetryableError
            If it cannot be read now.
        """
        if PARTITION not in partitions:
            return
        began = self._clock()
        deadline = Deadline(deadline_s)
        history = self._sources.history
        monitor = self._new_monitor()
        self._metrics.quality.clear()
        state = history.newest_snapshot(deadline)
        self._is_fresh = state is not None and state.layout != self._layout
        self._at = 0
        if state is not None and self._is_fresh:
            self._metrics.ignored.inc()
            logger.warning(
                "%s: the state at offset %d was made with other settings than pipeline.yaml has "
                "now; the detectors start anew",
                self._config.pipeline,
                state.offset,
            )
        elif state is not None:
            version = watched_version(state)
            if version is not None:
                self._sources.references.load(*version)
            for observed in history.observations(state.join_from, state.offset, deadline):
                self._metrics.add_joined(monitor.rebuild(observed))
            restore(monitor, state)
            self._at = state.offset
            self._metrics.restored.inc()
            logger.info(
                "%s: state at offset %d restored in %.1f s",
                self._config.pipeline,
                state.offset,
                self._clock() - began,
            )
        self._monitor = monitor
        self._is_restoring = True
        self._metrics.show_monitor(monitor)

    def revoked(self, partitions: Sequence[int]) -> None:
        """Drop the state of the partition."""
        if PARTITION in partitions:
            self._monitor = self._new_monitor()
            self._is_restoring = True
            self._open = Uncommitted()

    def changelog(self) -> Sequence[OutputColumns]:
        """Return a snapshot, if one is due or something was found."""
        is_due = self._clock() - self._last_snapshot >= self._snapshot_every_s
        if not (is_due or self._open.events) or self._is_restoring:
            return ()
        state = snapshot(self._config, self._monitor, self._at)
        schema = schema_text("drift_state.avsc")
        value = encode_one(schema, self._ids.drift_state, state.to_dict())
        self._open.snapshot_bytes = len(value)
        self._last_snapshot = self._clock()
        topic = self._config.topic_names.drift_state
        return [OutputColumns(topic, [str(PARTITION).encode()], [value], [PARTITION])]

    def committed(self) -> None:
        """Count the transaction and set the gauges, now that it is committed."""
        done, self._open = self._open, Uncommitted()
        self._metrics.count_committed(done.labels, done.events, done.requests, done.observations)
        if done.snapshot_bytes:
            self._metrics.snapshot_bytes.set(done.snapshot_bytes)
            self._metrics.snapshot_time.set(time.time_ns() / 1e9)
        self._metrics.show_monitor(self._monitor)

    def rolled_back(self, partitions: Sequence[int], deadline_s: float) -> None:
        """Restore the committed state by reading it: right whether or not the commit took place."""
        self.revoked(partitions)
        self.assigned(partitions, deadline_s)

    def _new_monitor(self) -> DriftMonitor:
        return DriftMonitor(self._config, self._sources.references.of)

    def _load_references(self, observed: Observations) -> None:
        for name, version, variant in observed.names:
            if variant == "champion":
                self._sources.references.load(name, version)

    def _catch_up(self, end: int) -> None:
        """Process what was committed since the snapshot; nothing of it is written again."""
        began, start = self._clock(), self._at
        deadline = Deadline(CATCH_UP_S)
        history = self._sources.history
        if self._is_fresh:
            reach = snapshot(self._config, self._monitor, end).join_from
            for observed in history.observations(reach, end, deadline):
                self._metrics.add_joined(self._monitor.rebuild(observed))
        elif start < end:
            for observed in history.observations(start, end, deadline):
                self._load_references(observed)
                self._metrics.add_joined(self._monitor.process(observed))
                self._at = int(observed.offsets[-1]) + 1 if len(observed) else self._at
        self._at = max(self._at, end if self._is_fresh else self._at)
        self._is_restoring = self._is_fresh = False
        if start < end:
            took_s = self._clock() - began
            name = self._config.pipeline
            logger.info("%s: observations %d to %d again in %.1f s", name, start, end, took_s)

    def _note(self, outcome: Outcome, observations: int) -> None:
        self._metrics.add_joined(outcome)
        self._open.labels.update(outcome.counts)
        self._open.events.extend(outcome.events)
        self._open.requests += len(outcome.requests)
        self._open.observations += observations


def _outputs_of(config: PipelineConfig, ids: SchemaIds, outcome: Outcome) -> list[OutputColumns]:
    """Return the records that a batch has led to, encoded."""
    topics, key = config.topic_names, config.pipeline.encode()
    outputs = []
    for topic, schema_id, file, records in (
        (topics.drift, ids.drift, "drift_event.avsc", outcome.events),
        (topics.retrain, ids.retrain, "retrain_event.avsc", outcome.requests),
    ):
        if records:
            schema = schema_text(file)
            values = [encode_one(schema, schema_id, record.to_dict()) for record in records]
            n = len(values)
            outputs.append(OutputColumns(topic, [key] * n, values, [PARTITION] * n))
    return outputs
