"""The sections of pipeline.yaml about a model's life: monitoring, labels, retraining, rollout."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from penstock_pipelines.section import Section


class Monitor(Section):
    """What the drift service watches, and when it calls a change drift."""

    features: tuple[str, ...] | None = None
    """Columns of the feature matrix compared with the training reference; by default all that are
    computed from the event alone or read from feast. Clock features follow the window's hours and
    aggregates the age of the stream, so neither is compared unless named here."""
    window_rows: PositiveInt = 5_000
    """Rows of one window compared with the reference."""
    psi_threshold: PositiveFloat = 0.2
    """Population stability index that counts as a change."""
    psi_windows: PositiveInt = 2
    """Windows in a row that must reach it before the change is confirmed."""
    adwin_delta: PositiveFloat = 0.002
    """Confidence of the change detector on the error; smaller is more careful."""
    evidence_labels: PositiveInt = 1_000
    """Joined labels after the change before it is confirmed."""
    degradation: Annotated[float, Field(gt=1)] = 1.5
    """How many times its earlier value the error over what the model expects must be after the
    change."""
    reopen_labels: PositiveInt = 100_000
    """Joined labels after which drift that still lasts is reported anew."""


class Labels(Section):
    """How interactions become labels of predictions."""

    horizon_s: PositiveFloat = 604_800.0
    """How long a prediction waits for its label, seconds of event time."""
    max_waiting: PositiveInt = 500_000
    """Most predictions, and most early labels, that wait at a time; beyond it the oldest go."""


class Retrain(Section):
    """When a request becomes a training, and on what."""

    enabled: bool = True
    """Whether requests other than by hand are accepted."""
    cooldown_s: Annotated[float, Field(ge=0)] = 3_600.0
    """Least time between two accepted requests other than by hand, seconds."""
    max_per_day: PositiveInt = 10
    """Most accepted requests within 24 hours."""
    min_labels: PositiveInt = 10_000
    """Joined labels that a training set needs."""
    max_labels: PositiveInt = 30_000
    """Most joined labels used, the newest first."""
    label_wait_s: PositiveFloat = 3_600.0
    """Longest wait for enough labels, seconds."""


class Rollout(Section):
    """How a new version takes over."""

    canary_percent: Annotated[int, Field(ge=1, le=50)] = 10
    """Share of the keys that the candidate answers, percent."""
    min_canary_rows: PositiveInt = 2_000
    """Predictions of the candidate with a label before a verdict."""
    max_wait_s: PositiveFloat = 3_600.0
    """Longest wait for them, seconds; then the candidate is rejected."""
    min_gain: float = 0.0
    """The candidate's AUC less the champion's, on the same rows, must reach this with 95 %
    confidence for a promotion."""
