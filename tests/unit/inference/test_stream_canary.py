"""The handler with a canary: rows by key, and nothing that a canary does costs a record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from harness.inference import (
    WIDTH,
    FakeScorer,
    batch,
    framed,
    mean_score,
    prediction,
    vector,
    version,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from penstock_inference.metrics import InferenceFamilies
from penstock_inference.model_server import Matrix, ServedModel
from penstock_inference.scoring import CANARY_TIMEOUT_S, DataPlane, ServingState
from penstock_inference.stream import InferenceHandler
from penstock_inference.traffic_split import Route, RouteTable, Share
from penstock_schemas.errors import FatalError, ModelRejected, ModelUnavailable, ShapeMismatch
from penstock_streaming.checkpoint import check_accounted
from penstock_streaming.handler import HandledBatch, MessageBatch

CHAMPION, CANARY = "tiny__1", "tiny__2"
ROWS = 20


def route(number: str, variant: str = "champion") -> Route:
    return Route(version(number), ServedModel(f"tiny__{number}", WIDTH, max_rows=4), variant)


TABLE = RouteTable("tiny", 2, route("1"), (Share(route("2", "canary"), 0, 4000),))
MESSAGES = batch([framed(vector(i)) for i in range(ROWS)])
IS_CANARYS = TABLE.split(MESSAGES.keys) == 1
CANARY_ROWS = np.flatnonzero(IS_CANARYS).tolist()


def canary_score(matrix: Matrix) -> Matrix:
    """Return scores that no champion gives."""
    return mean_score(matrix) + np.float32(100)


@pytest.fixture
def scorer() -> FakeScorer:
    made = FakeScorer()
    made.by_model[CANARY] = canary_score
    return made


@pytest.fixture
def now() -> list[float]:
    return [1000.0]


@pytest.fixture
def canaried(handler: InferenceHandler, scorer: FakeScorer, now: list[float]) -> InferenceHandler:
    serving = ServingState("tiny", handler.metrics, lambda: now[0])
    serving.swap_table(TABLE)
    handler.plane = DataPlane(scorer, serving, 5.0)
    return handler


def test_batch_without_rows_of_a_canary_leaves_its_probe_to_one_with_rows(
    canaried: InferenceHandler, scorer: FakeScorer, now: list[float]
) -> None:
    serving = canaried.plane.serving
    other = Share(route("3", "canary"), 4000, 8000)
    serving.swap_table(RouteTable("tiny", 3, route("1"), (*TABLE.canaries, other)))
    breakers = serving.breakers
    while breakers.is_closed(CANARY):
        breakers.record_failure(CANARY, ModelUnavailable("away"))
    now[0] += breakers.retry_after_s(CANARY) + 1.0
    before = breakers.state(CANARY)
    of_others = [i for i in range(ROWS) if not IS_CANARYS[i]]
    messages = batch([framed(vector(i)) for i in of_others])
    messages.keys[:] = [MESSAGES.keys[i] for i in of_others]  # type: ignore[index]
    handle(canaried, messages)
    assert breakers.state(CANARY) is before
    handle(canaried)
    assert breakers.is_closed(CANARY), "its rows were the probe"


def serve(handler: InferenceHandler, table: RouteTable) -> None:
    """Have the handler start afresh with a table: no circuit is open."""
    serving = ServingState("tiny", handler.metrics)
    serving.swap_table(table)
    handler.plane = DataPlane(handler.plane.server, serving, 5.0)


def handle(handler: InferenceHandler, messages: MessageBatch = MESSAGES) -> HandledBatch:
    handled = handler.submit(messages).result(1.0)
    check_accounted(messages, handled)
    return handled


def found(handled: HandledBatch) -> list[dict[str, Any]]:
    (output,) = handled.outputs
    return [prediction(value) for value in output.values]


def check_answers(handled: HandledBatch, canary_rows: Sequence[int]) -> None:
    """Check order and every field that says who answered."""
    (output,) = handled.outputs
    assert output.rows is not None
    for row, said in zip(output.rows, found(handled), strict=True):
        by_canary = int(row) in canary_rows
        expected = ("2", "canary") if by_canary else ("1", "champion")
        assert (said["event_id"], said["model_version"], said["variant"]) == (f"e{row}", *expected)
        mean = np.mean(said["features"])
        assert said["scores"] == [pytest.approx(mean + 100 * by_canary, rel=1e-5)]
        assert said["model_name"] == "tiny"
        assert said["threshold"] == pytest.approx(0.3)
        assert said["decision"] == (said["scores"][0] >= said["threshold"])
    assert list(output.rows) == sorted(output.rows), "the order of the records stays"
    assert list(output.keys) == [f"key{row}".encode() for row in output.rows]
    assert list(output.partitions) == [row % 3 for row in output.rows]


def fallbacks(families: InferenceFamilies) -> float:
    return families.fallbacks.labels("tiny", "tiny", "2")._value.get()


def test_each_row_is_answered_by_its_keys_version(
    canaried: InferenceHandler, scorer: FakeScorer, families: InferenceFamilies
) -> None:
    assert 0 < len(CANARY_ROWS) < ROWS
    handled = handle(canaried)
    check_answers(handled, CANARY_ROWS)
    assert handled.dead_letters == []
    assert fallbacks(families) == 0
    counted = families.predictions.labels("tiny", "tiny", "2", "canary")._value.get()
    assert counted == len(CANARY_ROWS)
    assert counted + families.predictions.labels("tiny", "tiny", "1", "champion")._value.get() == 20


def test_both_models_are_asked_before_either_is_waited_for(
    canaried: InferenceHandler, scorer: FakeScorer
) -> None:
    pending = canaried.submit(MESSAGES)
    assert {name for name, _ in scorer.asked} == {CHAMPION, CANARY}
    assert sum(map(len, scorer.calls)) == ROWS, "no row is sent twice"
    assert pending.done()
    assert dict(scorer.asked) == {CHAMPION: 5.0, CANARY: CANARY_TIMEOUT_S}


def test_no_key_is_looked_at_while_the_champion_is_alone(
    handler: InferenceHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a key was looked at")

    monkeypatch.setattr("penstock_inference.traffic_split.buckets", refuse)
    check_answers(handle(handler), [])


def test_record_without_key_is_the_champions(canaried: InferenceHandler) -> None:
    keyless = replace(MESSAGES, keys=[None] * ROWS)
    assert {said["variant"] for said in found(handle(canaried, keyless))} == {"champion"}


def failing(error: Exception) -> Callable[[Matrix], Matrix]:
    def respond(matrix: Matrix) -> Matrix:
        raise error

    return respond


WAYS_TO_FAIL: dict[str, Callable[[Matrix], Matrix]] = {
    "away": failing(ModelUnavailable("gone from the server")),
    "refuses": failing(ShapeMismatch("refused")),
    "rejects": failing(ModelRejected("boom")),
    "fatal": failing(FatalError("an answer that is none")),
    "nan": lambda matrix: np.full((len(matrix), 1), np.nan, dtype=np.float32),
    "inf": lambda matrix: np.full((len(matrix), 1), np.inf, dtype=np.float32),
    "wide": lambda matrix: np.zeros((len(matrix), 2), dtype=np.float32),
}


@pytest.mark.parametrize("way", WAYS_TO_FAIL)
@pytest.mark.parametrize("rows", [range(ROWS), CANARY_ROWS], ids=["mixed", "canary's alone"])
def test_canary_that_fails_costs_nothing(
    canaried: InferenceHandler,
    scorer: FakeScorer,
    families: InferenceFamilies,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    rows: Sequence[int],
) -> None:
    monkeypatch.setattr("penstock_inference.scoring.CANARY_ISOLATION_S", 0.0)
    scorer.by_model[CANARY] = WAYS_TO_FAIL[way]
    keys = [f"key{row}".encode() for row in rows]
    messages = replace(batch([framed(vector(row)) for row in rows]), keys=keys)
    handled = handle(canaried, messages)
    assert handled.dead_letters == []
    assert [said["event_id"] for said in found(handled)] == [f"e{row}" for row in rows]
    for said in found(handled):
        assert (said["model_version"], said["variant"]) == ("1", "champion")
        assert said["scores"] == [pytest.approx(np.mean(said["features"]), rel=1e-5)]
    assert fallbacks(families) == len(CANARY_ROWS)


def first_value(row: int) -> np.float32:
    return np.float32(vector(row)["features"][0])


@pytest.mark.parametrize("kind", ["nan", "rejects"])
def test_champion_answers_the_one_row_that_the_canary_fails_on(
    canaried: InferenceHandler,
    scorer: FakeScorer,
    families: InferenceFamilies,
    pauses: list[float],
    kind: str,
) -> None:
    bad = CANARY_ROWS[1]

    def fail_on(matrix: Matrix) -> Matrix:
        is_bad = matrix[:, :1] == first_value(bad)
        if kind == "rejects" and is_bad.any():
            raise ModelRejected("boom")
        return np.where(is_bad, np.nan, canary_score(matrix)).astype(np.float32)

    scorer.by_model[CANARY] = fail_on
    handled = handle(canaried)
    assert handled.dead_letters == []
    check_answers(handled, [row for row in CANARY_ROWS if row != bad])
    assert fallbacks(families) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(champion=st.sets(st.integers(0, ROWS - 1)), canary=st.sets(st.integers(0, ROWS - 1)))
def test_only_what_the_champion_fails_on_too_is_dead(
    handler: InferenceHandler, champion: set[int], canary: set[int]
) -> None:
    def failing_on(rows: set[int], score: Callable[[Matrix], Matrix]) -> Any:
        values = [first_value(row) for row in rows]
        return lambda m: np.where(np.isin(m[:, :1], values), np.nan, score(m)).astype(np.float32)

    scorer = handler.plane.server
    assert isinstance(scorer, FakeScorer)
    scorer.by_model = {
        CHAMPION: failing_on(champion, mean_score),
        CANARY: failing_on(canary, canary_score),
    }
    serve(handler, TABLE)
    handled = handle(handler)
    by_canary = set(CANARY_ROWS) - canary
    assert [row for row, _ in handled.dead_letters] == sorted(champion - by_canary)
    assert {error.model for _, error in handled.dead_letters} <= {CHAMPION}
    if handled.outputs:
        check_answers(handled, sorted(by_canary))


def test_champion_that_is_away_pauses_whatever_the_canary_says(
    canaried: InferenceHandler, scorer: FakeScorer, families: InferenceFamilies
) -> None:
    scorer.by_model[CHAMPION] = failing(ModelUnavailable("away"))
    with pytest.raises(ModelUnavailable):
        canaried.submit(MESSAGES).result(1.0)
    scorer.by_model[CANARY] = failing(ModelUnavailable("away"))
    with pytest.raises(ModelUnavailable):
        canaried.submit(MESSAGES).result(1.0)
    assert fallbacks(families) == 0
    assert canaried.plane.serving.breakers.allow_call(CANARY), "nothing is said about the canary"


def test_canary_that_fails_is_left_alone_for_a_while(
    canaried: InferenceHandler,
    scorer: FakeScorer,
    families: InferenceFamilies,
    now: list[float],
) -> None:
    scorer.by_model[CANARY] = failing(ModelUnavailable("hangs"))
    handle(canaried)
    scorer.asked.clear()
    handle(canaried)
    assert {name for name, _ in scorer.asked} == {CHAMPION}
    assert fallbacks(families) == 2 * len(CANARY_ROWS)
    now[0] += 1.0
    handle(canaried)  # fails again: twice as long
    now[0] += 1.5
    scorer.by_model[CANARY] = canary_score
    check_answers(handle(canaried), [])
    now[0] += 0.5
    check_answers(handle(canaried), CANARY_ROWS)
    check_answers(handle(canaried), CANARY_ROWS)
    assert fallbacks(families) == 4 * len(CANARY_ROWS)


def test_champion_that_belies_its_description_answers_all(
    canaried: InferenceHandler, scorer: FakeScorer
) -> None:
    scorer.by_model[CHAMPION] = lambda m: np.repeat(mean_score(m), 2, axis=1)
    for messages in (MESSAGES, MESSAGES):
        scorer.by_model[CANARY] = canary_score
        said = found(handle(canaried, messages))
        assert {(len(s["scores"]), s["variant"]) for s in said} == {(2, "champion")}


def test_two_canaries_have_their_own_keys(handler: InferenceHandler, scorer: FakeScorer) -> None:
    shares = (Share(route("2", "canary"), 0, 3000), Share(route("3", "canary"), 3000, 6000))
    table = RouteTable("tiny", 3, route("1"), shares)
    scorer.by_model["tiny__3"] = failing(ModelUnavailable("away"))
    serve(handler, table)
    which = table.split(MESSAGES.keys)
    assert set(which) == {0, 1, 2}
    check_answers(handle(handler), np.flatnonzero(which == 1).tolist())


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited
