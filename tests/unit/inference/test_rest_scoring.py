"""The gateway's scorer over a real link, with a canary that may fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from harness.inference import WIDTH, FakeScorer, mean_score, version
from penstock_inference.metrics import InferenceFamilies, InferenceMetrics
from penstock_inference.model_manager import ModelManager
from penstock_inference.model_server import DeadlineHit, Matrix
from penstock_inference.rest.batching import RestScorer
from penstock_inference.scoring import DataPlane, Scored, ServingState
from penstock_schemas.errors import ModelRejected, ModelUnavailable, PenstockError
from penstock_schemas.records import RoutingState

ROW = np.array([[0.1, 0.2, 0.3]], dtype=np.float32)
KEYS = [f"key{number}".encode() for number in range(40)]


@pytest.fixture
def manager(scorer: FakeScorer, metrics: InferenceMetrics) -> ModelManager:
    serving = ServingState("tiny", metrics)
    made = ModelManager(lambda *_: None, scorer, serving, width=WIDTH, max_rows=16)
    canary = version("2", alias="challenger", weight=50, state="canary")
    made.take_routing_state(RoutingState("tiny", 1, 0, "test", (version(weight=50), canary)))
    made.reconcile()
    scorer.asked.clear()
    scorer.calls.clear()
    return made


@pytest.fixture
def linked(manager: ModelManager, scorer: FakeScorer) -> RestScorer:
    return RestScorer(DataPlane(scorer, manager.serving, 5.0), manager)


def answers(linked: RestScorer) -> list[str]:
    async def ask() -> list[Scored]:
        return [await linked.answer(key, ROW) for key in KEYS]

    return [scored.route.version.version for scored in asyncio.run(ask())]


def test_key_meets_the_version_that_it_meets_in_the_stream(
    linked: RestScorer, manager: ModelManager
) -> None:
    table = manager.serving.table
    assert table is not None
    expected = [table.route_of(key).version.version for key in KEYS]
    assert set(expected) == {"1", "2"}
    assert answers(linked) == expected
    assert asyncio.run(linked.answer(None, ROW)).route.version.version == "1"


@pytest.mark.parametrize("error", [ModelUnavailable("gone"), ModelRejected("boom"), None])
def test_champion_answers_what_the_canary_does_not(
    linked: RestScorer,
    scorer: FakeScorer,
    families: InferenceFamilies,
    error: PenstockError | None,
) -> None:
    expected = answers(linked).count("2")

    def fail(matrix: Matrix) -> Matrix:
        if error is not None:
            raise error
        return mean_score(matrix) * np.nan

    scorer.by_model["tiny__2"] = fail
    scorer.asked.clear()
    assert set(answers(linked)) == {"1"}
    assert families.fallbacks.labels("tiny", "tiny", "2")._value.get() == expected
    tries = [name for name, _ in scorer.asked].count("tiny__2")
    by_error = {ModelUnavailable: 1, ModelRejected: 2, type(None): expected}
    assert tries == by_error[type(error)], "a canary that is away, or fails on a good row, is left"


def test_version_by_number_is_that_version_or_an_error(
    linked: RestScorer, scorer: FakeScorer
) -> None:
    async def ask() -> Scored:
        route = await linked.route("2")
        assert route is not None
        return await linked.score(route, ROW)

    assert asyncio.run(ask()).route.version.version == "2"

    def away(matrix: Matrix) -> Matrix:
        raise ModelUnavailable("away")

    scorer.by_model["tiny__2"] = away
    with pytest.raises(ModelUnavailable):
        asyncio.run(ask())


def test_champion_that_is_away_is_an_error_whatever_the_key(
    linked: RestScorer, scorer: FakeScorer
) -> None:
    def away(matrix: Matrix) -> Matrix:
        raise ModelUnavailable("away")

    scorer.respond = away
    for key in (None, *KEYS[:5]):
        with pytest.raises(ModelUnavailable):
            asyncio.run(linked.answer(key, ROW))


def reject(what: float) -> Callable[[Matrix], Matrix]:
    def respond(matrix: Matrix) -> Matrix:
        if np.isclose(matrix, what).any():
            raise ModelRejected("boom")
        return mean_score(matrix)

    return respond


def test_row_that_the_model_fails_on_is_its_callers_fault(
    linked: RestScorer, manager: ModelManager, scorer: FakeScorer
) -> None:
    scorer.respond = reject(0.3)
    with pytest.raises(ModelRejected):
        asyncio.run(linked.answer(None, ROW))
    assert asyncio.run(linked.answer(None, ROW / 2)).route.version.version == "1"
    assert not manager.serving.suspects


def test_model_that_fails_on_a_good_row_too_is_away(
    linked: RestScorer, manager: ModelManager, scorer: FakeScorer
) -> None:
    """Its process has died: no fault of the caller, and a matter for the keeper."""
    asyncio.run(linked.answer(None, ROW))

    def dead(matrix: Matrix) -> Matrix:
        raise ModelRejected("its process is dead")

    scorer.respond = dead
    with pytest.raises(ModelUnavailable):
        asyncio.run(linked.answer(None, ROW * 2))
    ((name, row),) = manager.serving.suspects.items()
    assert row is not None
    assert name == "tiny__1"
    assert row.tolist() == ROW.tolist(), "one that went through before"


@pytest.mark.parametrize(("error", "tries"), [(DeadlineHit("late"), 1), (ModelUnavailable("x"), 3)])
def test_champion_that_is_known_to_be_away_is_not_asked(
    linked: RestScorer,
    manager: ModelManager,
    scorer: FakeScorer,
    families: InferenceFamilies,
    error: PenstockError,
    tries: int,
) -> None:
    def away(matrix: Matrix) -> Matrix:
        raise error

    scorer.respond = away
    for _ in range(10):
        with pytest.raises(ModelUnavailable):
            asyncio.run(linked.answer(None, ROW))
    assert len(scorer.asked) == tries
    hits = families.deadline_hits.labels("tiny", "tiny", "1")._value.get()
    assert hits == (1 if isinstance(error, DeadlineHit) else 0)
    scorer.respond = mean_score
    manager.serving.breakers.reset_breaker("tiny__1")  # the keeper's probe went through
    assert asyncio.run(linked.answer(None, ROW)).route.version.version == "1"
