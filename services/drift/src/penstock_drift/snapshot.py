"""The monitor's state as a record of the state topic, and back."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Final

from penstock_monitoring.label_join import REBUILT_FROM
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.records import DriftState

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
