"""The stages of the loop, and what a run is expected to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from penstock_schemas.errors import FatalError


class Stage(StrEnum):
    """What has to happen, in this order."""

    PREDICTED = "events predicted"
    PLANTED = "planted point passed"
    DRIFT_FOUND = "drift found"
    ACCEPTED = "retrain accepted"
    SUPPRESSED = "retrain suppressed"
    STARTED = "training started"
    CANARIED = "candidate canaried"
    PROMOTED = "candidate promoted"
    MEASURED = "new champion measured"
    CONTROLLED = "old champion measured"


LOOP: Final = (
    Stage.PREDICTED,
    Stage.PLANTED,
    Stage.DRIFT_FOUND,
    Stage.ACCEPTED,
    Stage.STARTED,
    Stage.CANARIED,
    Stage.PROMOTED,
    Stage.MEASURED,
)
CONTROL: Final = (
    Stage.PREDICTED,
    Stage.PLANTED,
    Stage.DRIFT_FOUND,
    Stage.SUPPRESSED,
    Stage.CONTROLLED,
)
"""Stages of a run without retraining."""


class StageMissed(FatalError):
    """A stage did not happen; the message names it."""

    def __init__(self, stage: Stage, why: str) -> None:
        super().__init__(f"stage {stage.value!r} did not happen: {why}")
        self.stage = stage
        self.why = why


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the run is to show.

    Parameters
    ----------
    stages
        `LOOP` or `CONTROL`.
    drift_at
        First event after the planted point.
    is_planted
        False where there is no drift: then one that is found is an error, too.
    found_within_labels
        Labels after the planted point by which drift must be found.
    measured_labels
        Joined labels of the new champion, or, in a control run, after the planted point.
    limits_s
        Longest time from the stage before to each stage, seconds.
    """

    stages: tuple[Stage, ...]
    drift_at: int
    is_planted: bool
    found_within_labels: int
    measured_labels: int
    limits_s: Mapping[Stage, float]
