from __future__ import annotations

from dataclasses import replace

import pytest
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_training.tracking import RegisteredModel
from penstock_training_job.rollout import Overtaken, Rollout, drained, ended

CANDIDATE = RegisteredModel("fraud", "2", "run-2", "c0ffee", b"model")
ROLLOUT = Rollout("r1", CANDIDATE, "1")


def version(number: str, alias: str = "", weight: int = 0, state: str = "serving") -> ModelVersion:
    return ModelVersion("fraud", number, f"fraud__{number}", alias, weight, "d", "run", state)


def state(*versions: ModelVersion, by: str = "first-model") -> RoutingState:
    return RoutingState("fraud", 7, 0, by, versions)


FIRST = state(version("1", "champion", 100))


def shape(found: RoutingState) -> list[tuple[str, str, int, str]]:
    assert sum(v.weight for v in found.versions) == 100
    return [(v.version, v.alias, v.weight, v.state) for v in found.versions]


def test_canary_takes_its_share_and_says_whose_it_is() -> None:
    found = ROLLOUT.canary(FIRST, 10)
    assert shape(found) == [
        ("1", "champion", 90, "serving"),
        ("2", "challenger", 10, "canary"),
    ]
    assert (found.revision, found.updated_by) == (8, "retrain-job/r1")
    candidate = found.versions[1]
    assert (candidate.served_as, candidate.digest) == ("fraud__2", CANDIDATE.digest)
    assert (candidate.run_id, candidate.git_commit) == ("run-2", "c0ffee")


def test_promotion_and_what_follows() -> None:
    promoted = ROLLOUT.promoted(ROLLOUT.canary(FIRST, 10))
    assert shape(promoted) == [("2", "champion", 100, "serving"), ("1", "previous", 0, "draining")]
    retired = drained(promoted, "r1")
    assert shape(retired) == [("2", "champion", 100, "serving"), ("1", "previous", 0, "retired")]
    assert retired.revision == promoted.revision + 1


def test_rejection_gives_every_key_back() -> None:
    found = ROLLOUT.rejected(ROLLOUT.canary(FIRST, 10))
    assert shape(found) == [("1", "champion", 100, "serving"), ("2", "", 0, "retired")]


def test_each_step_repeated_writes_nothing() -> None:
    canary = ROLLOUT.canary(FIRST, 10)
    assert ROLLOUT.canary(canary, 10) is canary
    assert ROLLOUT.running(canary) is canary
    promoted = ROLLOUT.promoted(canary)
    assert ROLLOUT.promoted(promoted) is promoted
    rejected = ROLLOUT.rejected(canary)
    assert ROLLOUT.rejected(rejected) is rejected
    retired = drained(promoted, "r1")
    assert drained(retired, "r1") is retired
    assert ended(rejected, "r1") is rejected
    assert ROLLOUT.rejected(FIRST) is FIRST


@pytest.mark.parametrize(
    "now",
    [None, state(), state(version("3", "champion", 100)), state(version("1", "", 100))],
)
def test_another_champion_is_left_alone(now: RoutingState | None) -> None:
    for step in (lambda: ROLLOUT.canary(now, 10), lambda: ROLLOUT.promoted(now)):
        with pytest.raises(Overtaken, match="champion"):
            step()
    with pytest.raises(Overtaken, match="champion"):
        ROLLOUT.rejected(now)


def test_canary_ended_by_somebody_else_is_not_promoted_nor_begun_again() -> None:
    by_hand = replace(ROLLOUT.rejected(ROLLOUT.canary(FIRST, 10)), updated_by="cli:ann")
    for step in (ROLLOUT.promoted, ROLLOUT.running, lambda now: ROLLOUT.canary(now, 10)):
        with pytest.raises(Overtaken, match="cli:ann"):
            step(by_hand)


def test_canary_of_a_job_that_died_gives_way_and_what_was_retired_is_forgotten() -> None:
    left = state(
        version("1", "champion", 90),
        version("5", "challenger", 10, "canary"),
        version("6", "", 0, "shadow"),
        version("4", "", 0, "retired"),
        by="retrain-job/r0",
    )
    assert shape(ROLLOUT.canary(left, 20)) == [
        ("1", "champion", 80, "serving"),
        ("2", "challenger", 20, "canary"),
        ("5", "", 0, "retired"),
        ("6", "", 0, "shadow"),
    ]


def test_the_way_back_outlives_later_candidates_and_ends_with_the_next_promotion() -> None:
    serving = drained(ROLLOUT.promoted(ROLLOUT.canary(FIRST, 10)), "r1")
    third = Rollout("r2", replace(CANDIDATE, version="3"), "2")
    fourth = Rollout("r3", replace(CANDIDATE, version="4"), "2")
    rejected = third.rejected(third.canary(serving, 10))
    canary = fourth.canary(rejected, 10)
    assert [v.version for v in canary.versions if v.alias == "previous"] == ["1"]
    assert shape(fourth.promoted(canary)) == [
        ("4", "champion", 100, "serving"),
        ("2", "previous", 0, "draining"),
        ("1", "", 0, "retired"),
    ]


def test_canary_set_by_hand_does_not_give_way() -> None:
    by_hand = state(
        version("1", "champion", 90), version("5", "challenger", 10, "canary"), by="cli:ann"
    )
    with pytest.raises(Overtaken, match="another canary runs, by cli:ann"):
        ROLLOUT.canary(by_hand, 10)


def test_other_versions_keep_their_share() -> None:
    canary = ROLLOUT.canary(FIRST, 10)
    champion, mine = canary.versions
    other = version("9", "challenger", 5, "canary")
    shared = replace(canary, versions=(replace(champion, weight=85), mine, other))
    assert shape(ROLLOUT.promoted(shared))[::2] == [
        ("2", "champion", 95, "serving"),
        ("9", "challenger", 5, "canary"),
    ]
    assert shape(ROLLOUT.rejected(shared))[0] == ("1", "champion", 95, "serving")


def test_failed_job_takes_its_canary_back_and_nobody_else_s() -> None:
    canary = ROLLOUT.canary(FIRST, 10)
    assert shape(ended(canary, "r1")) == [
        ("1", "champion", 100, "serving"),
        ("2", "", 0, "retired"),
    ]
    by_hand = replace(canary, updated_by="cli:ann")
    assert ended(by_hand, "r1") is by_hand
    draining = replace(ROLLOUT.promoted(canary), updated_by="cli:ann")
    assert drained(draining, "r1") is draining
