"""The stages of the demo: reached in any order of the topics, missed by name, never waited for."""

from __future__ import annotations

from typing import Any

import pytest
from penstock_cli.demonstration.run import DemoPlan
from penstock_cli.demonstration.stages import (
    CONTROL,
    LOOP,
    RunProgress,
    Stage,
    StageMissed,
    StageTracker,
)
from penstock_schemas.records import (
    DriftEvent,
    DriftWindow,
    ModelVersion,
    RetrainEvent,
    RoutingState,
)

AT = 20_000
ASKED = RetrainEvent.request("ep1-retrain", "fraud", 5, "drift", reason="error tripled")


def tracker(**plan: Any) -> StageTracker:
    given = {"seed": 1, "drift": "concept", "drift_at": AT, "rate": 1000.0, **plan}
    return StageTracker(DemoPlan(**given).expectation(), began_s=0.0)


def alarm(severity: str = "detected", episode: str = "ep1") -> DriftEvent:
    window = DriftWindow("fraud.observations.v1", 0, 1, 9, 9, 1, 2)
    return DriftEvent(
        f"{episode}-{severity}", episode, "fraud", 3, "adwin", "concept", "error", 0.03, 0.012,
        0.008, "fraud", "1", window, "", severity,
    )  # fmt: skip


def routing(revision: int, first: int, second: int | None = None) -> RoutingState:
    """Return version 1 and, with a share of its own, version 2; the larger one is champion."""

    def version(name: str, weight: int, alias: str, state: str) -> ModelVersion:
        return ModelVersion("fraud", name, f"fraud__{name}", alias, weight, "d", "run", state)

    if second is None:
        versions = [version("1", first, "champion", "serving")]
    elif second < 100:
        versions = [
            version("1", first, "champion", "serving"),
            version("2", second, "challenger", "canary"),
        ]
    else:
        versions = [version("2", 100, "champion", "serving"), version("1", 0, "", "draining")]
    return RoutingState("fraud", revision, 0, "test", tuple(versions))


def step(state: str, **facts: Any) -> RetrainEvent:
    return ASKED.followed_by(state, 6, **facts)


def test_a_loop_that_closes_reaches_every_stage_in_order() -> None:
    run = tracker()
    run.routing(routing(1, 100), 0.5)
    run.progress(RunProgress(events=100, predicted=50), 1.0)
    run.progress(RunProgress(AT, AT), 20.0)
    run.drift(alarm("suspected"), 22.0)
    assert run.current is Stage.DRIFT_FOUND
    run.drift(alarm(), 24.0)
    run.retrain(ASKED, 24.1)
    run.retrain(step("accepted"), 25.0)
    run.retrain(step("started", run_id="r"), 26.0)
    run.routing(routing(2, 90, 10), 50.0)
    run.routing(routing(3, 0, 100), 70.0)
    assert run.current is Stage.PROMOTED
    run.retrain(step("finished", verdict="promoted", model_version="2"), 70.2)
    assert run.current is Stage.MEASURED
    run.progress(RunProgress(90_000, 90_000, 70_000, 20_000), 91.0)
    assert run.current is None
    assert tuple(run.reached) == LOOP
    assert run.reached[Stage.PROMOTED] == 70.2
    assert run.facts.suspected == alarm("suspected")
    assert run.events_at[Stage.DRIFT_FOUND] == AT


def test_a_promotion_seen_before_its_end_and_a_canary_before_its_start_are_not_missed() -> None:
    run = ready()
    run.routing(routing(2, 90, 10), 30.0)
    run.retrain(step("accepted"), 31.0)
    assert run.current is Stage.STARTED
    run.retrain(step("started"), 32.0)
    assert run.current is Stage.PROMOTED


def ready(**plan: Any) -> StageTracker:
    """Return a run whose drift has been found at 24 s."""
    run = tracker(**plan)
    run.routing(routing(1, 100), 0.5)
    run.progress(RunProgress(AT + 3000, AT), 20.0)
    run.drift(alarm(), 24.0)
    run.retrain(ASKED, 24.0)
    return run


def test_no_prediction_in_time_is_named() -> None:
    run = tracker()
    run.check(59.0)
    with pytest.raises(StageMissed, match="'events predicted' did not happen"):
        run.check(61.0)


def test_no_alarm_on_the_labels_after_the_planted_point_is_named() -> None:
    run = tracker(drift="none")
    run.progress(RunProgress(AT, AT), 20.0)
    run.progress(RunProgress(50_000, 50_000, 29_999), 49.0)
    run.check(90.0)
    run.progress(RunProgress(50_001, 50_000, 30_000), 91.0)
    run.check(110.0)
    with pytest.raises(StageMissed) as missed:
        run.check(112.0)
    assert missed.value.stage is Stage.DRIFT_FOUND
    assert "30,000 labels after event 20,000" in str(missed.value)


def test_labels_that_do_not_come_end_the_wait_as_well() -> None:
    run = tracker()
    run.progress(RunProgress(AT, AT), 20.0)
    with pytest.raises(StageMissed, match="'drift found' did not happen: not within"):
        run.check(20.0 + 60.0 + 60.0 + 20.0 + 1.0)


@pytest.mark.parametrize(
    ("plan", "events", "why"),
    [
        ({}, AT - 1, "before it was planted"),
        ({"drift": "none"}, AT + 5000, "none was planted"),
    ],
)
def test_a_false_alarm_is_an_error(plan: dict[str, Any], events: int, why: str) -> None:
    run = tracker(**plan)
    run.progress(RunProgress(events, events), 10.0)
    run.drift(alarm("suspected"), 11.0)
    with pytest.raises(StageMissed, match=why):
        run.drift(alarm(), 12.0)


@pytest.mark.parametrize(
    ("state", "facts", "stage"),
    [
        ("suppressed", {"reason": "cooldown: 5 s left"}, Stage.ACCEPTED),
        ("failed", {"reason": "no rows"}, Stage.ACCEPTED),
        ("cancelled", {"reason": "by ada"}, Stage.ACCEPTED),
        ("finished", {"verdict": "rejected", "reason": "worse"}, Stage.ACCEPTED),
    ],
)
def test_a_request_that_ends_otherwise_ends_the_demo_with_its_reason(
    state: str, facts: dict[str, str], stage: Stage
) -> None:
    with pytest.raises(StageMissed, match=facts["reason"]) as missed:
        ready().retrain(step(state, **facts), 30.0)
    assert missed.value.stage is stage


def test_later_requests_do_not_matter() -> None:
    run = ready()
    other = RetrainEvent.request("ep2-retrain", "fraud", 9, "drift")
    run.retrain(other, 30.0)
    run.retrain(other.followed_by("suppressed", 9, reason="in flight"), 31.0)
    assert run.current is Stage.ACCEPTED
    assert list(run.facts.steps) == ["requested"]


@pytest.mark.parametrize(
    ("states", "missed_at_s", "stage"),
    [
        ([], 24.0 + 60, Stage.ACCEPTED),
        (["accepted"], 25.0 + 120, Stage.STARTED),
        (["accepted", "started"], 25.0 + 300, Stage.CANARIED),
    ],
)
def test_each_stage_has_a_deadline_from_the_one_before(
    states: list[str], missed_at_s: float, stage: Stage
) -> None:
    run = ready()
    for state in states:
        run.retrain(step(state), 25.0)
    run.check(missed_at_s - 1)
    with pytest.raises(StageMissed) as missed:
        run.check(missed_at_s + 1)
    assert missed.value.stage is stage


def test_a_run_without_retraining_needs_the_suppression_and_enough_labels() -> None:
    run = ready(retrains=False)
    run.retrain(step("suppressed", reason="disabled: retrain.enabled is false"), 25.0)
    assert run.current is Stage.CONTROLLED
    run.progress(RunProgress(110_000, 110_000, 80_000), 110.0)
    assert run.current is None
    assert tuple(run.reached) == CONTROL
