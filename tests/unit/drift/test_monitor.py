"""The pure core: what a log leads to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from harness.drift import Stream, log_of, make_stream, observed
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_drift.champion import SWITCH_ROWS
from penstock_drift.monitor import DriftMonitor
from penstock_drift.state import layout_of, rebuilt_from, restore, snapshot
from penstock_monitoring.reference import Reference
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.records import DriftEvent, RetrainEvent

Log = list[tuple[int, int]]
Found = tuple[list[DriftEvent], list[RetrainEvent]]
ROWS = 6_000
FRAUD_ROWS = 30_000


def run(monitor: DriftMonitor, stream: Stream, log: Log, cuts: list[int], first: int = 0) -> Found:
    """Process a log from ``first`` on, cut into batches at these places."""
    events: list[DriftEvent] = []
    requests: list[RetrainEvent] = []
    edges = sorted({first, len(log), *(cut for cut in cuts if first < cut < len(log))})
    for start, end in pairwise(edges):
        outcome = monitor.process(observed(stream, log[start:end], start))
        events.extend(outcome.events)
        requests.extend(outcome.requests)
    return events, requests


@pytest.fixture
def monitor(config: PipelineConfig, reference: Reference) -> DriftMonitor:
    return DriftMonitor(config, lambda name, version: reference)


@pytest.fixture
def blind(config: PipelineConfig) -> DriftMonitor:
    """Return a monitor without a reference: it sees errors only."""
    return DriftMonitor(config, lambda name, version: None)


def test_concept_drift_asks_once_and_says_since_when(blind: DriftMonitor) -> None:
    stream = make_stream(1, ROWS, concept_at=3_000)
    events, requests = run(blind, stream, log_of(stream), [])
    assert [e.severity for e in events] == ["suspected", "detected"]
    assert {(e.kind, e.subject, e.detector) for e in events} == {("concept", "error", "adwin")}
    assert len({e.episode_id for e in events}) == 1
    (request,) = requests
    assert request.cause_ids == (events[1].event_id,)
    assert request.data_since == events[1].window.first_time
    assert abs(request.data_since - int(stream.times[3_000])) < 300 * 6_000
    assert (request.state, request.source) == ("requested", "drift")
    assert request.event_id.replace("-", "").isalnum()
    assert events[1].detected_at >= int(stream.times[3_000])


def test_columns_that_move_are_named_in_one_episode(monitor: DriftMonitor) -> None:
    stream = make_stream(2, ROWS, shift_at=3_000)
    moved = replace(stream, features=stream.features.copy())
    at = monitor._columns["home_risk"]
    moved.features[3_000:, at] -= 2.0
    events, requests = run(monitor, moved, log_of(moved), [])
    detected = [e for e in events if e.severity == "detected"]
    assert {(e.subject, e.kind) for e in detected} == {
        ("amount_log", "data"),
        ("home_risk", "data"),
    }
    assert len({e.episode_id for e in events}) == len(requests) == 1
    assert set(requests[0].cause_ids) == {e.event_id for e in detected}
    assert {e.window.rows for e in events} == {500}
    assert requests[0].data_since == int(stream.times[3_000])
    assert all(e.reference_id.startswith("sha256:") for e in events)


def test_score_that_moves_is_prediction_drift(monitor: DriftMonitor) -> None:
    stream = make_stream(3, ROWS)
    scores = stream.scores.copy()
    scores[3_000:] = np.sqrt(scores[3_000:])
    events, _ = run(monitor, replace(stream, scores=scores), log_of(stream), [])
    assert ("prediction", "score") in {(e.kind, e.subject) for e in events}


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_where_nothing_changes(
    fraud: PipelineConfig, reference: Reference, seed: int
) -> None:
    stream = make_stream(seed, FRAUD_ROWS)
    monitor = DriftMonitor(fraud, lambda name, version: reference)
    assert run(monitor, stream, log_of(stream), list(range(0, 60_000, 4_096))) == ([], [])


def test_shipped_settings_find_drift_in_time(fraud: PipelineConfig, reference: Reference) -> None:
    stream = make_stream(11, FRAUD_ROWS, concept_at=20_000)
    monitor = DriftMonitor(fraud, lambda name, version: reference)
    events, requests = run(monitor, stream, log_of(stream), list(range(0, 60_000, 4_096)))
    assert len(requests) == 1
    decided = events[-1].window.last_offset
    after = {row for row, kind in log_of(stream)[:decided] if kind and row >= 20_000}
    assert len(after) < 5_000


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 2 * ROWS), max_size=12), st.sampled_from(["concept_at", "shift_at"]))
def test_cuts_do_not_matter(
    config: PipelineConfig, reference: Reference, cuts: list[int], kind: str
) -> None:
    stream, log, expected = _changed(config, reference, kind)
    monitor = DriftMonitor(config, lambda name, version: reference)
    assert run(monitor, stream, log, cuts) == expected


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 2 * ROWS - 1), st.sampled_from(["concept_at", "shift_at"]))
def test_restored_state_goes_on_like_an_unbroken_run(
    config: PipelineConfig, reference: Reference, cut: int, kind: str
) -> None:
    stream, log, (events, requests) = _changed(config, reference, kind)
    before = DriftMonitor(config, lambda name, version: reference)
    first = run(before, stream, log[:cut], [])
    state = snapshot(config, before, cut)
    again = DriftMonitor(config, lambda name, version: reference)
    again.rebuild(observed(stream, log[state.join_from : cut], state.join_from))
    restore(again, state)
    assert snapshot(config, again, cut) == state
    second = run(again, stream, log, [], cut)
    assert (first[0] + second[0], first[1] + second[1]) == (events, requests)


_KNOWN: dict[str, tuple[Stream, Log, Found]] = {}


def _changed(config: PipelineConfig, reference: Reference, kind: str) -> tuple[Stream, Log, Found]:
    """Return a changed stream and what it leads to in one batch; made once."""
    if kind not in _KNOWN:
        change: Callable[..., Stream] = make_stream
        stream = change(5, ROWS, **{kind: 3_000})
        log = log_of(stream)
        found = run(DriftMonitor(config, lambda name, version: reference), stream, log, [])
        assert found[1], "the stream shows no drift"
        _KNOWN[kind] = stream, log, found
    return _KNOWN[kind]


def test_same_log_same_ids_other_log_other_ids(config: PipelineConfig) -> None:
    def ids(seed: int) -> set[str]:
        stream = make_stream(seed, ROWS, concept_at=3_000)
        monitor = DriftMonitor(config, lambda name, version: None)
        return {e.event_id for e in run(monitor, stream, log_of(stream), [])[0]}

    assert ids(1) == ids(1)
    assert not ids(1) & ids(2)


def test_drift_that_lasts_is_asked_about_again(blind: DriftMonitor) -> None:
    stream = make_stream(1, 22_000, concept_at=3_000)
    events, requests = run(blind, stream, log_of(stream), [])
    assert len(requests) == len({r.event_id for r in requests}) == 3
    detected = [e for e in events if e.severity == "detected"]
    assert len({e.episode_id for e in detected}) == 3


def test_episode_ends_when_the_error_recovers(blind: DriftMonitor) -> None:
    stream = make_stream(1, 12_000, concept_at=3_000, recovered_at=5_500)
    _, requests = run(blind, stream, log_of(stream), [])
    assert len(requests) == 1
    assert not blind.episodes.current.is_open
    assert not blind.error.is_confirmed


def test_a_new_champion_ends_the_episode(blind: DriftMonitor) -> None:
    stream = make_stream(1, 8_000, concept_at=3_000, recovered_at=5_500)
    promoted = replace(stream, versions=["1"] * 5_500 + ["2"] * 2_500)
    _, requests = run(blind, promoted, log_of(promoted), [])
    assert len(requests) == 1
    assert blind.watched is not None
    assert blind.watched.model_version == "2"
    assert not blind.episodes.current.is_open
    assert blind.error.level < 1.3, "late labels of the old version are not its errors"


def test_mixed_versions_around_a_promotion_are_one_switch(config: PipelineConfig) -> None:
    watched: list[str] = []

    def reference_of(name: str, version: str) -> None:
        watched.append(version)

    stream = make_stream(1, 3_000)
    rng = np.random.default_rng(0)
    mixed = ["1"] * 1_000 + [str(v) for v in rng.integers(1, 3, 500)] + ["2"] * 1_500
    stream = replace(stream, versions=mixed)
    run(DriftMonitor(config, reference_of), stream, log_of(stream), [777, 2_222])
    assert watched == ["1", "2"]


def test_a_partition_read_late_does_not_bring_the_old_champion_back(
    blind: DriftMonitor,
) -> None:
    stream = make_stream(1, 6_000)
    stream = replace(stream, versions=["1"] * 3_000 + ["2"] * 3_000)
    halves = [[(row, 0) for row in range(part, 6_000, 2)] for part in (0, 1)]
    run(blind, stream, halves[0] + halves[1], [])
    assert blind.watched is not None
    assert blind.watched.model_version == "2"


def test_a_rollback_brings_it_back(blind: DriftMonitor) -> None:
    stream = make_stream(1, 3_000)
    versions = ["1"] * 1_000 + ["2"] * 1_000 + ["1"] * 1_000
    stream = replace(stream, versions=versions)
    log = [(row, 0) for row in range(2_000 + SWITCH_ROWS - 1)]
    run(blind, stream, log, [])
    assert blind.watched is not None
    assert blind.watched.model_version == "2"
    blind.process(observed(stream, [(2_500, 0)], len(log)))
    assert blind.watched.model_version == "1"


def test_snapshot_is_json_and_bounded(config: PipelineConfig, monitor: DriftMonitor) -> None:
    stream = make_stream(1, 2_000)
    run(monitor, stream, log_of(stream), [])
    state = snapshot(config, monitor, 4_000)
    assert json.loads(state.detectors)["succession"]["current"] == ["made", "1"]
    assert len(state.detectors) < 20_000
    assert len(state.errors) * 2 == len(state.error_times)
    assert state.join_from == rebuilt_from(config, 4_000) == 0


def test_layout_follows_the_settings(config: PipelineConfig, fraud: PipelineConfig) -> None:
    assert layout_of(config) != layout_of(fraud)
    other = fraud.model_copy(update={"threshold": 0.9})
    assert layout_of(other) == layout_of(fraud)
