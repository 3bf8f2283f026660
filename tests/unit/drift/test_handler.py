"""The monitor loop's handler: snapshot, restore, and what is not written twice."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from harness.drift import (
    MemoryHistory,
    Stream,
    decoder,
    log_of,
    make_stream,
    observation_batch,
    observation_columns,
    output_rows,
)
from penstock_drift.handler import MonitorHandler, SchemaIds, Sources
from penstock_drift.metrics import DriftFamilies, DriftMetrics
from penstock_drift.references import TrackingUnavailable
from penstock_monitoring.reference import Reference
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.codec import decode_one
from penstock_schemas.records import DriftState
from penstock_schemas.schema_files import schema_text
from penstock_streaming.checkpoint import check_accounted
from prometheus_client import CollectorRegistry

ROWS = 5_000
STATE = schema_text("drift_state.avsc")


class KnownReferences:
    """References without a server; it may be away."""

    def __init__(self, reference: Reference | None) -> None:
        self.reference = reference
        self.is_away = False
        self.loaded: set[str] = set()

    def load(self, model_name: str, model_version: str) -> None:
        if self.is_away:
            raise TrackingUnavailable("away")
        self.loaded.add(model_version)

    def of(self, model_name: str, model_version: str) -> Reference | None:
        assert model_version in self.loaded
        return self.reference


@dataclass
class HandlerLoop:
    """A handler in a loop of the test's own, with one transaction per batch."""

    config: PipelineConfig
    references: KnownReferences
    history: MemoryHistory = field(default_factory=MemoryHistory)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    now: float = 0.0
    events: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.families = DriftFamilies(self.registry)
        self.handler = self.started()

    def started(self) -> MonitorHandler:
        metrics = DriftMetrics(self.families, "p", 0.2)
        sources = Sources(
            decoder(schema_text("observation.avsc"), "observation.avsc"),
            self.history,
            self.references,  # type: ignore[arg-type]
        )
        ids = SchemaIds(1, 2, 3)
        return MonitorHandler(self.config, sources, ids, metrics, 5.0, clock=lambda: self.now)

    def restart(self) -> None:
        self.handler = self.started()
        self.handler.assigned([0], 10.0)

    def take(self, stream: Stream, log: list[tuple[int, int]], first: int, ends: str) -> None:
        """Process a batch; the transaction is committed, aborted, or cut off by a kill."""
        columns = observation_columns(stream, log)
        batch = observation_batch(columns, first)
        handled = self.handler.submit(batch).handled
        check_accounted(batch, handled)
        changes = self.handler.changelog()
        if ends == "commit":
            self.history.columns.append((first, columns))
            for change in changes:
                value = change.values[0] or b""
                state = decode_one(value, lambda _: STATE, STATE)
                self.history.states.append(DriftState.from_dict(state))
            topics = self.config.topic_names
            self.events += [
                row["event_id"] for row in output_rows(handled, "drift_event.avsc", topics.drift)
            ]
            self.requests += [
                row["event_id"]
                for row in output_rows(handled, "retrain_event.avsc", topics.retrain)
            ]
            self.handler.committed()
        elif ends == "abort":
            self.handler.rolled_back([0], 10.0)
        else:
            self.restart()

    def run(self, stream: Stream, seed: int | None) -> None:
        """Process a whole log; with a seed, in pieces that often fail."""
        rng = random.Random(seed)
        log = log_of(stream)
        at = 0
        self.handler.assigned([0], 10.0)
        while at < len(log):
            size = 1_000 if seed is None else rng.randrange(1, 1_500)
            end = "commit"
            if seed is not None:
                end = rng.choice(["commit", "commit", "abort", "kill"])
                self.now += rng.uniform(0.0, 4.0)
            self.take(stream, log[at : at + size], at, end)
            at += size if end == "commit" else 0

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, {"pipeline": "p", **labels}) or 0.0


@pytest.fixture
def references(reference: Reference) -> KnownReferences:
    return KnownReferences(reference)


@pytest.fixture
def loop(config: PipelineConfig, references: KnownReferences) -> HandlerLoop:
    return HandlerLoop(config, references)


@pytest.mark.parametrize("kind", ["concept_at", "shift_at"])
@pytest.mark.parametrize("attempt", range(4))
def test_kills_and_aborts_change_nothing(
    config: PipelineConfig, references: KnownReferences, kind: str, attempt: int
) -> None:
    stream = make_stream(5, ROWS, **{kind: 2_500})
    unbroken, broken = HandlerLoop(config, references), HandlerLoop(config, references)
    unbroken.run(stream, None)
    broken.run(stream, attempt)
    assert unbroken.requests
    assert broken.events == unbroken.events
    assert broken.requests == unbroken.requests


def test_counts_are_those_of_what_is_committed(loop: HandlerLoop) -> None:
    stream = make_stream(5, ROWS, concept_at=2_500)
    loop.run(stream, 3)
    assert loop.count("penstock_drift_observations_total") == 2 * ROWS
    assert loop.count("penstock_drift_labels_total", outcome="matured") == ROWS
    assert loop.count("penstock_drift_retrain_requests_total") == len(loop.requests)
    assert loop.count("penstock_drift_episode_open") == 1.0


def test_snapshot_is_written_when_due_or_when_something_is_found(loop: HandlerLoop) -> None:
    stream = make_stream(5, ROWS, concept_at=2_500)
    log = log_of(stream)
    loop.handler.assigned([0], 10.0)
    loop.take(stream, log[:100], 0, "commit")
    assert not loop.history.states
    loop.now = 5.0
    loop.take(stream, log[100:200], 100, "commit")
    assert [state.offset for state in loop.history.states] == [200]
    loop.take(stream, log[200:], 200, "commit")
    assert loop.events
    assert loop.history.states[-1].offset == len(log)


def test_only_what_came_after_the_snapshot_is_processed_again(loop: HandlerLoop) -> None:
    stream = make_stream(5, ROWS)
    log = log_of(stream)
    loop.handler.assigned([0], 10.0)
    for at in range(0, 3_000, 1_000):
        loop.now += 3.0
        loop.take(stream, log[at : at + 1_000], at, "commit")
    loop.restart()
    loop.history.reads.clear()
    loop.take(stream, log[3_000:3_500], 3_000, "commit")
    assert loop.history.reads == [(2_000, 3_000)]


def test_state_of_other_settings_is_left_aside(
    config: PipelineConfig, references: KnownReferences
) -> None:
    loop = HandlerLoop(config, references)
    stream = make_stream(5, ROWS, concept_at=2_500)
    loop.run(stream, None)
    loop.now += 10
    monitor = config.monitor.model_copy(update={"degradation": 1.7})
    changed = HandlerLoop(config.model_copy(update={"monitor": monitor}), references, loop.history)
    changed.handler.assigned([0], 10.0)
    assert changed.count("penstock_drift_state_ignored_total") == 1
    label = [(row, 1) for row in range(ROWS)][-1:]
    changed.take(stream, label, 2 * ROWS, "commit")
    assert changed.count("penstock_drift_episode_open") == 0
    assert changed.count("penstock_drift_labels_total", outcome="duplicate") == 1, "join is rebuilt"


def test_without_tracking_server_nothing_is_taken_in(loop: HandlerLoop) -> None:
    stream = make_stream(5, 100)
    loop.handler.assigned([0], 10.0)
    loop.references.is_away = True
    with pytest.raises(TrackingUnavailable):
        loop.take(stream, log_of(stream), 0, "commit")
    loop.references.is_away = False
    loop.take(stream, log_of(stream), 0, "commit")
    assert loop.count("penstock_drift_labels_total", outcome="matured") == 100


def test_records_seen_already_are_counted_and_ignored(loop: HandlerLoop) -> None:
    stream = make_stream(5, 100)
    log = log_of(stream)
    loop.handler.assigned([0], 10.0)
    loop.take(stream, log, 0, "commit")
    loop.take(stream, log[50:], 50, "commit")
    assert loop.count("penstock_drift_observations_total") == 200
    assert loop.count("penstock_drift_labels_total", outcome="duplicate") == 0


def test_a_revoked_partition_has_no_state_left(loop: HandlerLoop) -> None:
    stream = make_stream(5, ROWS, concept_at=2_500)
    loop.run(stream, None)
    loop.handler.revoked([0])
    assert loop.handler.changelog() == ()
    assert loop.handler._monitor.waiting == (0, 0)


def test_unreadable_records_are_dead_letters(loop: HandlerLoop) -> None:
    stream = make_stream(5, 20)
    loop.handler.assigned([0], 10.0)
    batch = observation_batch(observation_columns(stream, log_of(stream)), 0)
    values = [*batch.values[:-1], b"\x00\x00"]
    handled = loop.handler.submit(replace(batch, values=values)).handled
    assert [row for row, _ in handled.dead_letters] == [39]
    check_accounted(batch, handled)
