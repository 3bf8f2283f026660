"""The stages of the loop: which were reached when, and which did not come in time.

Pure: the times are given. Facts may come in any order, since they lie in several topics; a stage
counts from the moment its fact was seen, and its deadline from the stage before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from penstock_schemas.errors import FatalError
from penstock_schemas.records import DriftEvent, RetrainEvent, RoutingState


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


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far the run is.

    Parameters
    ----------
    events
        Events sent.
    predicted
        Events with a prediction.
    drifted_labels
        Joined labels of events after the planted point.
    new_labels
        Joined labels on predictions of the new champion.
    """

    events: int = 0
    predicted: int = 0
    drifted_labels: int = 0
    new_labels: int = 0


@dataclass(slots=True)
class Facts:
    """What the topics have shown so far."""

    drift: list[DriftEvent] = field(default_factory=list)
    request: RetrainEvent | None = None
    steps: dict[str, RetrainEvent] = field(default_factory=dict)
    first: RoutingState | None = None
    routing: RoutingState | None = None

    @property
    def detected(self) -> DriftEvent | None:
        """The first confirmed drift."""
        return next((event for event in self.drift if event.severity == "detected"), None)

    @property
    def suspected(self) -> DriftEvent | None:
        """The first event of the confirmed drift's episode."""
        found = self.detected
        episode = None if found is None else found.episode_id
        return next((event for event in self.drift if event.episode_id == episode), None)

    @property
    def first_version(self) -> str:
        """Version of the first champion; empty before any routing state."""
        champion = None if self.first is None else self.first.champion
        return "" if champion is None else champion.version

    @property
    def new_version(self) -> str | None:
        """The version that a promotion has made champion."""
        finished = self.steps.get("finished")
        if finished is None or finished.verdict != "promoted":
            return None
        return finished.model_version


class StageTracker:
    """Follows one run.

    Parameters
    ----------
    expectation
        What is to happen.
    began_s
        When the first event was sent, monotonic seconds.
    """

    def __init__(self, expectation: Expectation, began_s: float) -> None:
        self._expected = expectation
        self._began_s = began_s
        self._progress = RunProgress()
        self._enough_labels_s: float | None = None
        self.reached: dict[Stage, float] = {}
        self.events_at: dict[Stage, int] = {}
        self.facts = Facts()

    @property
    def current(self) -> Stage | None:
        """The stage that is waited for; None when all have been reached."""
        return next((s for s in self._expected.stages if s not in self.reached), None)

    def drift(self, event: DriftEvent, now_s: float) -> None:
        """Process a drift event.

        Raises
        ------
        StageMissed
            If drift is reported where there is none.
        """
        self.facts.drift.append(event)
        if event is not self.facts.detected:
            return
        if not self._expected.is_planted:
            raise StageMissed(Stage.DRIFT_FOUND, "it was reported, and none was planted")
        if self._progress.events < self._expected.drift_at:
            raise StageMissed(Stage.DRIFT_FOUND, "it was reported before it was planted")
        self._settle(now_s)

    def retrain(self, event: RetrainEvent, now_s: float) -> None:
        """Process a step of a retraining; those of later requests do not matter.

        Raises
        ------
        StageMissed
            If the request ends otherwise than expected.
        """
        facts = self.facts
        if facts.request is None and event.state == "requested":
            facts.request = event
        if facts.request is None or event.request_id != facts.request.request_id:
            return
        facts.steps.setdefault(event.state, event)
        self._settle(now_s)
        bad = ["failed", "cancelled"]
        if Stage.SUPPRESSED not in self._expected.stages:
            bad.append("suppressed")
        if event.state in bad or (event.state == "finished" and event.verdict != "promoted"):
            what = event.verdict or event.state
            raise StageMissed(self.current or Stage.PROMOTED, f"{what}: {event.reason}")

    def routing(self, state: RoutingState, now_s: float) -> None:
        """Process a routing state."""
        self.facts.first = self.facts.first or state
        self.facts.routing = state
        canaried = any(v.alias == "challenger" and v.weight > 0 for v in state.versions)
        if canaried:
            self._reach(Stage.CANARIED, now_s)
        self._settle(now_s)

    def progress(self, progress: RunProgress, now_s: float) -> None:
        """Process how far the run is."""
        self._progress = progress
        enough = progress.drifted_labels >= self._expected.found_within_labels
        if enough and self._enough_labels_s is None:
            self._enough_labels_s = now_s
        self._settle(now_s)

    def check(self, now_s: float) -> None:
        """Raise if the stage waited for is not in time.

        Raises
        ------
        StageMissed
            If it is not.
        """
        stage = self.current
        if stage is None:
            return
        labels = self._expected.found_within_labels
        if stage is Stage.DRIFT_FOUND and self._enough_labels_s is not None:
            # What decides lies in the topics by now; the service may need a moment to read it.
            if now_s - self._enough_labels_s > self._expected.limits_s[stage]:
                raise StageMissed(
                    stage, f"not on {labels:,} labels after event {self._expected.drift_at:,}"
                )
            return
        waited_s = now_s - max([self._began_s, *self.reached.values()])
        if waited_s > self._limit_s(stage):
            raise StageMissed(stage, f"not within {self._limit_s(stage):.0f} s")

    def _limit_s(self, stage: Stage) -> float:
        limits = self._expected.limits_s
        if stage is Stage.DRIFT_FOUND:  # first its labels have to come
            return limits[stage] + limits[Stage.MEASURED]
        return limits[stage]

    def _settle(self, now_s: float) -> None:
        """Note each stage whose fact is there."""
        facts, progress, expected = self.facts, self._progress, self._expected
        champion = facts.routing.champion if facts.routing is not None else None
        promoted = champion is not None and champion.version == facts.new_version
        there = {
            Stage.PREDICTED: progress.predicted > 0,
            Stage.PLANTED: progress.events >= expected.drift_at,
            Stage.DRIFT_FOUND: facts.detected is not None and facts.request is not None,
            Stage.ACCEPTED: "accepted" in facts.steps,
            Stage.SUPPRESSED: "suppressed" in facts.steps,
            Stage.STARTED: "started" in facts.steps,
            Stage.PROMOTED: promoted,
            Stage.MEASURED: promoted and progress.new_labels >= expected.measured_labels,
            Stage.CONTROLLED: progress.drifted_labels >= expected.measured_labels,
        }
        for stage, is_there in there.items():
            if is_there:
                self._reach(stage, now_s)

    def _reach(self, stage: Stage, now_s: float) -> None:
        if stage in self._expected.stages and stage not in self.reached:
            self.reached[stage] = now_s
            self.events_at[stage] = self._progress.events
