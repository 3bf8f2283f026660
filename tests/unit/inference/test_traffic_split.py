from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness.inference import WIDTH, version
from hypothesis import given
from hypothesis import strategies as st
from penstock_inference.model_server import ServedModel
from penstock_inference.traffic_split import RouteTable, route_table, variant_of
from penstock_schemas.records import ModelVersion, RoutingState

KEYS: list[bytes | None] = [f"account-{number}".encode() for number in range(20_000)]
weights_of_two = st.tuples(st.integers(0, 49), st.integers(0, 49))


def canary(number: str, weight: int = 10, **changes: Any) -> ModelVersion:
    facts = {"alias": "challenger", "weight": weight, "state": "canary"}
    return version(number, **{**facts, **changes})


def state(*versions: ModelVersion, pipeline: str = "tiny", revision: int = 1) -> RoutingState:
    return RoutingState(pipeline, revision, 0, "test", versions)


def models(*numbers: str) -> dict[str, ServedModel]:
    return {f"tiny__{n}": ServedModel(f"tiny__{n}", WIDTH, 1024) for n in numbers}


def table(*weights: int, pipeline: str = "tiny", loaded: str = "1234") -> RouteTable:
    """Return the table of champion 1 and canaries 2, 3, … of these weights."""
    rest = [canary(str(number), weight) for number, weight in enumerate(weights, 2)]
    champion = version("1", weight=100 - sum(weights))
    made = route_table(state(champion, *rest, pipeline=pipeline), models(*loaded))
    assert made is not None
    return made


def numbers(made: RouteTable, keys: list[bytes | None] = KEYS) -> list[str]:
    """Return the version that each key meets."""
    return [made.routes[index].version.version for index in made.split(keys)]


@given(weights_of_two)
def test_key_meets_the_same_version_in_every_revision_of_the_same_weights(
    weights: tuple[int, int],
) -> None:
    made, again = table(*weights), table(*weights)
    keys = KEYS[:500]
    assert numbers(made, keys) == numbers(again, keys)
    assert numbers(made, keys[::-1]) == numbers(again, keys)[::-1]
    assert [made.route_of(key).version.version for key in keys[:20]] == numbers(made, keys[:20])


@given(st.integers(1, 98), st.integers(0, 50))
def test_raising_a_weight_only_adds_keys(weight: int, more: int) -> None:
    keys = KEYS[:2000]
    before = np.array(numbers(table(weight), keys))
    after = np.array(numbers(table(min(99, weight + more)), keys))
    assert set(after[before == "2"]) <= {"2"}


@given(weights_of_two, st.integers(0, 40))
def test_raising_the_last_canary_moves_no_key_of_the_first(
    weights: tuple[int, int], more: int
) -> None:
    first, second = weights[0], min(weights[1], 99 - weights[0])
    keys = KEYS[:2000]
    before = np.array(numbers(table(first, second), keys))
    after = np.array(numbers(table(first, min(99 - first, second + more)), keys))
    assert ((before == "2") == (after == "2")).all()
    assert set(after[before == "3"]) <= {"3"}


@pytest.mark.parametrize("weight", [1, 10, 50])
@pytest.mark.parametrize("pipeline", ["tiny", "fraud", "churn"])
def test_share_of_the_keys_is_the_weight(weight: int, pipeline: str) -> None:
    share = numbers(table(weight, pipeline=pipeline)).count("2") / len(KEYS)
    assert share * 100 == pytest.approx(weight, abs=max(0.5, weight / 20))


def test_canaries_of_two_pipelines_meet_different_keys() -> None:
    one = np.array(numbers(table(10, pipeline="one")))
    two = np.array(numbers(table(10, pipeline="two")))
    both = ((one == "2") & (two == "2")).mean()
    assert both == pytest.approx(0.01, abs=0.005), "independent, so a tenth of a tenth"


def test_record_without_key_is_the_champions() -> None:
    made = table(49, 50)
    assert numbers(made, [None, None]) == ["1", "1"]
    assert made.route_of(None) is made.champion


def test_canary_that_is_not_loaded_moves_no_key_of_another() -> None:
    whole, part = np.array(numbers(table(10, 20))), np.array(numbers(table(10, 20, loaded="13")))
    assert ((whole == "3") == (part == "3")).all()
    assert set(part[whole == "2"]) == {"1"}
    assert table(10, 20, loaded="13").weights == (80.0, 20.0)


def test_no_table_without_a_loaded_champion() -> None:
    assert route_table(state(version("1", weight=90), canary("2", 10)), models("2")) is None
    assert route_table(state(canary("2", 10)), models("2")) is None


@pytest.mark.parametrize(
    "changes", [{"weight": 0}, {"state": "shadow"}, {"state": "draining"}, {"state": "retired"}]
)
def test_only_a_canary_with_weight_takes_keys(changes: dict[str, Any]) -> None:
    made = route_table(state(version(), canary("2", **changes)), models("1", "2"))
    assert made is not None
    assert made.canaries == ()


def test_promoted_version_takes_every_key() -> None:
    promoted = state(version("2"), version("1", alias="", weight=0, state="draining"))
    made = route_table(promoted, models("1", "2"))
    assert made is not None
    assert set(numbers(made)) == {"2"}
    assert made.champion.variant == "champion"


def test_weights_beyond_all_keys_are_cut_off() -> None:
    made = route_table(state(version(), canary("2", 70), canary("3", 70)), models("1", "2", "3"))
    assert made is not None
    assert made.weights == (0.0, 70.0, 30.0)


@pytest.mark.parametrize(
    ("in_state", "variant"),
    [("canary", "canary"), ("shadow", "shadow"), ("serving", "champion"), ("draining", "champion")],
)
def test_version_by_number_has_its_variant(in_state: str, variant: str) -> None:
    assert variant_of(version("2", state=in_state)) == variant


def test_second_serving_version_is_the_other_arm_of_a_test() -> None:
    """Its keys stay its own; it answers as a canary does, for there is one champion."""
    arm = version("2", alias="b", weight=50)
    made = route_table(state(version("1", weight=50), arm), models("1", "2"))
    assert made is not None
    assert [(r.version.version, r.variant) for r in made.routes] == [
        ("1", "champion"),
        ("2", "canary"),
    ]
    met = numbers(made)
    assert met == numbers(made)
    assert 0.47 < met.count("2") / len(met) < 0.53


def test_shadows_take_no_keys() -> None:
    shadow = version("9", alias="challenger", weight=0, state="shadow")
    made = route_table(state(version("1"), shadow), models("1", "9"))
    assert made is not None
    assert set(numbers(made)) == {"1"}
    assert [(r.version.version, r.variant) for r in made.shadows] == [("9", "shadow")]
    unloaded = route_table(state(version("1"), shadow), models("1"))
    assert unloaded is not None
    assert unloaded.shadows == ()
