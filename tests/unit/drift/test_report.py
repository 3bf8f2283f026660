"""The rows behind an event, read again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from harness.drift import MemoryHistory, Stream, log_of, make_stream, observation_columns, observed
from penstock_drift.monitor import DriftMonitor
from penstock_drift.report import evidence
from penstock_monitoring.reference import Reference
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.errors import FatalError
from penstock_schemas.records import DriftEvent
from penstock_streaming.timing import Deadline


def history_of(stream: Stream, log: list[tuple[int, int]]) -> MemoryHistory:
    history = MemoryHistory()
    for start in range(0, len(log), 999):
        piece = log[start : start + 999]
        history.columns.append((start, observation_columns(stream, piece)))
    return history


def detected(
    config: PipelineConfig, reference: Reference, stream: Stream, log: list[tuple[int, int]]
) -> DriftEvent:
    monitor = DriftMonitor(config, lambda name, version: reference)
    events = monitor.process(observed(stream, log, 0)).events
    return next(event for event in events if event.severity == "detected")


@pytest.mark.parametrize("kind", ["concept_at", "shift_at"])
@pytest.mark.parametrize("labels_first", [False, True])
def test_rows_are_those_of_the_event(
    config: PipelineConfig, reference: Reference, kind: str, labels_first: bool
) -> None:
    stream = make_stream(5, 6_000, **{kind: 3_000})
    log = log_of(stream)
    if labels_first:  # as after an absence, when one loop is ahead of the other
        log = [(row, 1 - is_label) for row, is_label in log]
    event = detected(config, reference, stream, log)
    frame = evidence(config, event, history_of(stream, log), Deadline(10))
    assert len(frame) == event.window.rows
    wanted = {*config.monitored_features, "score"}
    if kind == "concept_at":
        wanted |= {"label", "error"}
        # What the report shows is what the detector has seen.
        assert frame["error"].mean() > 0
        assert frame.index.min() >= event.window.first_offset
    assert set(frame.columns) == wanted


def test_rows_that_are_gone_are_an_error(config: PipelineConfig, reference: Reference) -> None:
    stream = make_stream(5, 6_000, shift_at=3_000)
    log = log_of(stream)
    event = detected(config, reference, stream, log)
    history = history_of(stream, log)
    history.columns = [c for c in history.columns if c[0] > event.window.first_offset]
    with pytest.raises(FatalError, match="expected 500 rows"):
        evidence(config, event, history, Deadline(10))
    other = replace(event, model_version="9")
    with pytest.raises(FatalError, match="got 0"):
        evidence(config, other, history, Deadline(10))
