"""What may be done to a routing state, by the command line and by a training job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from penstock_routing.rollout import (
    Versions,
    promoted,
    rolled_back,
    with_canary,
    with_shadow,
)
from penstock_schemas.errors import Refused
from penstock_schemas.records import ModelVersion, RoutingState

Facts = tuple[str, str, int, str]


def version(number: str, alias: str = "", weight: int = 0, state: str = "serving") -> ModelVersion:
    return ModelVersion("m", number, f"m__{number}", alias, weight, "sha256:0", "run", state)


def state(*versions: ModelVersion, by: str = "cli:ann") -> RoutingState:
    return RoutingState("m", 7, 0, by, versions)


def shape(found: Versions) -> list[Facts]:
    assert sum(v.weight for v in found) == 100
    return [(v.version, v.alias, v.weight, v.state) for v in found]


ONE = version("1", "champion", 100)
NEW = version("2", state="retired")
FIRST = state(ONE)


def after(now: RoutingState, found: Versions) -> RoutingState:
    return replace(now, versions=found)


def test_a_promoted_version_takes_over_and_leaves_a_way_back() -> None:
    found = promoted(FIRST, NEW)
    assert shape(found) == [("2", "champion", 100, "serving"), ("1", "previous", 0, "draining")]
    third = promoted(after(FIRST, found), version("3"))
    assert shape(third) == [
        ("3", "champion", 100, "serving"),
        ("2", "previous", 0, "draining"),
        ("1", "", 0, "retired"),
    ]
    assert promoted(FIRST, ONE) is FIRST.versions


def test_promotion_leaves_what_others_answer_for() -> None:
    others = (version("5", "challenger", 10, "canary"), version("6", "", 20, "serving"))
    now = state(replace(ONE, weight=70), *others, version("7", "", 0, "shadow"))
    found = promoted(now, NEW)
    assert shape(found)[0] == ("2", "champion", 70, "serving")
    assert found[2:] == (*others, version("7", "", 0, "shadow"))


def test_a_canary_that_is_promoted_takes_what_it_had_with_it() -> None:
    now = after(FIRST, with_canary(FIRST, NEW, 10))
    assert shape(promoted(now, now.versions[1])) == [
        ("2", "champion", 100, "serving"),
        ("1", "previous", 0, "draining"),
    ]


def test_rollback_gives_every_key_to_the_champion_before() -> None:
    canary = version("5", "challenger", 10, "canary")
    beside = version("6", "", 20, "serving")
    shadow = version("7", "challenger", 0, "shadow")
    before = version("1", "previous", 0, "retired")
    now = state(version("2", "champion", 70), before, canary, beside, shadow)
    assert shape(rolled_back(now)) == [
        ("1", "champion", 100, "serving"),
        ("2", "", 0, "draining"),
        ("5", "", 0, "retired"),
        ("6", "", 0, "retired"),
        ("7", "challenger", 0, "shadow"),
    ]


def test_rollback_does_not_bring_back_what_was_rolled_back() -> None:
    back = rolled_back(after(FIRST, promoted(FIRST, NEW)))
    with pytest.raises(Refused, match=r"no previous champion of m is known.*model promote m"):
        rolled_back(after(FIRST, back))


def test_a_canary_s_share_is_changed_and_ended() -> None:
    ten = after(FIRST, with_canary(FIRST, NEW, 10))
    assert shape(ten.versions) == [
        ("1", "champion", 90, "serving"),
        ("2", "challenger", 10, "canary"),
    ]
    mine = ten.versions[1]
    assert with_canary(ten, mine, 10) is ten.versions
    half = after(ten, with_canary(ten, mine, 50))
    assert shape(half.versions)[0] == ("1", "champion", 50, "serving")
    ended = with_canary(half, half.versions[1], 0)
    assert shape(ended) == [("1", "champion", 100, "serving"), ("2", "", 0, "retired")]


def test_a_shadow_takes_no_keys_and_a_canary_that_becomes_one_gives_its_own_back() -> None:
    ten = after(FIRST, with_canary(FIRST, NEW, 10))
    found = after(ten, with_shadow(ten, ten.versions[1], on=True))
    assert shape(found.versions) == [
        ("1", "champion", 100, "serving"),
        ("2", "challenger", 0, "shadow"),
    ]
    assert shape(with_shadow(found, found.versions[1], on=False))[1] == ("2", "", 0, "retired")


@pytest.mark.parametrize("percent", [0, 5])
def test_the_way_back_keeps_its_name_on_trial_and_after_it(percent: int) -> None:
    now = after(FIRST, promoted(FIRST, NEW))
    trial = after(now, with_canary(now, now.versions[1], 5))
    assert trial.versions[1].alias == "previous"
    assert with_canary(trial, trial.versions[1], percent)[1].alias == "previous"
    assert shape(rolled_back(trial))[0] == ("1", "champion", 100, "serving")


@pytest.mark.parametrize(
    ("move", "reason"),
    [
        (lambda: with_canary(FIRST, ONE, 5), "version 1 is the champion"),
        (lambda: with_shadow(FIRST, ONE, on=True), "version 1 is the champion"),
        (lambda: with_canary(FIRST, NEW, 0), "version 2 is no canary"),
        (lambda: with_shadow(FIRST, NEW, on=False), "version 2 is no shadow"),
        (lambda: rolled_back(FIRST), "no previous champion"),
        (lambda: promoted(state(version("1", "", 100)), NEW), "no champion"),
        (
            lambda: with_canary(
                state(replace(ONE, weight=40), version("5", "challenger", 60, "canary")), NEW, 40
            ),
            "leave the champion 0 %; others have: 5 60 %",
        ),
    ],
)
def test_what_is_unsafe_is_refused(move: Callable[[], Versions], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        move()
