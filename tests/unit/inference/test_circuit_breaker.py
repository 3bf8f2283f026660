"""The circuit breaker by itself, and how handler and keeper use it together."""

from __future__ import annotations

import pytest
from harness.inference import WIDTH, FakeScorer, batch, framed, mean_score, vector, version
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_inference.circuit_breaker import (
    ANSWERING,
    BESIDE,
    PROBE_LIMIT_S,
    BreakerState,
    CircuitBreakers,
)
from penstock_inference.metrics import InferenceFamilies, InferenceMetrics
from penstock_inference.model_manager import ModelManager
from penstock_inference.model_server import DeadlineHit, Matrix, ServedModel
from penstock_inference.scoring import DataPlane, ServingState
from penstock_inference.stream import InferenceHandler
from penstock_inference.traffic_split import Route, RouteTable
from penstock_schemas.errors import ModelUnavailable
from penstock_schemas.records import RoutingState

NAME = "tiny__1"
AWAY = ModelUnavailable("away")
CHAMPION = Route(version(), ServedModel(NAME, WIDTH, max_rows=4))
TABLE = RouteTable("tiny", 1, CHAMPION)
MESSAGES = batch([framed(vector(0))])


@pytest.fixture
def now() -> list[float]:
    return [1000.0]


@pytest.fixture
def told() -> list[tuple[str, BreakerState]]:
    return []


@pytest.fixture
def breakers(now: list[float], told: list[tuple[str, BreakerState]]) -> CircuitBreakers:
    return CircuitBreakers(lambda: now[0], lambda name, state: told.append((name, state)))


def open_it(breakers: CircuitBreakers) -> None:
    for _ in range(ANSWERING.failures):
        breakers.record_failure(NAME, AWAY)


def test_failures_in_a_row_open_the_circuit(
    breakers: CircuitBreakers, told: list[tuple[str, BreakerState]]
) -> None:
    for _ in range(5):
        breakers.record_failure(NAME, AWAY)
        breakers.record_failure(NAME, AWAY)
        breakers.record_success(NAME)
    assert breakers.is_closed(NAME), "never three in a row"
    open_it(breakers)
    assert told == [(NAME, "open")]
    assert not breakers.allow_call(NAME)
    assert breakers.retry_after_s(NAME) == ANSWERING.first_pause_s
    assert breakers.allow_call("another"), "each model has its own"


def test_one_deadline_hit_opens_the_circuit(breakers: CircuitBreakers) -> None:
    breakers.record_failure(NAME, DeadlineHit("5 s"))
    assert breakers.state(NAME) == "open"


def test_one_failure_is_enough_beside_another_model(breakers: CircuitBreakers) -> None:
    breakers.record_failure(NAME, AWAY, BESIDE)
    assert breakers.state(NAME) == "open"


def test_one_probe_per_pause(breakers: CircuitBreakers, now: list[float]) -> None:
    open_it(breakers)
    pauses = []
    for _ in range(6):
        pauses.append(breakers.retry_after_s(NAME))
        now[0] += pauses[-1] * 0.99
        assert not breakers.allow_call(NAME)
        now[0] += pauses[-1] * 0.02
        assert [breakers.allow_call(NAME) for _ in range(3)] == [True, False, False]
        breakers.record_failure(NAME, AWAY)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_probe_that_is_answered_closes_and_traffic_starts_the_pauses_over(
    breakers: CircuitBreakers, now: list[float]
) -> None:
    open_it(breakers)
    now[0] += 0.5
    assert breakers.allow_call(NAME)
    breakers.record_success(NAME)
    assert breakers.is_closed(NAME)
    open_it(breakers)
    assert breakers.retry_after_s(NAME) == 1.0, "the probe alone proves little"
    now[0] += 1.0
    assert breakers.allow_call(NAME)
    breakers.record_success(NAME)
    breakers.record_success(NAME)
    open_it(breakers)
    assert breakers.retry_after_s(NAME) == 0.5


def test_probe_that_is_never_reported_is_given_up(
    breakers: CircuitBreakers, now: list[float]
) -> None:
    open_it(breakers)
    now[0] += 0.5
    assert breakers.allow_call(NAME)
    now[0] += PROBE_LIMIT_S - 0.1
    assert not breakers.allow_call(NAME)
    now[0] += 0.2
    assert breakers.allow_call(NAME)


def test_late_answers_of_calls_sent_before_say_nothing(breakers: CircuitBreakers) -> None:
    open_it(breakers)
    breakers.record_success(NAME)
    assert breakers.state(NAME) == "open"
    breakers.record_failure(NAME, AWAY)
    assert breakers.retry_after_s(NAME) == ANSWERING.first_pause_s


@settings(deadline=None)
@given(st.lists(st.sampled_from(["ask", "fail", "answer", "wait", "hit"]), max_size=60))
def test_no_call_while_open_and_never_stuck(steps: list[str]) -> None:
    now = [0.0]
    breakers = CircuitBreakers(lambda: now[0])
    for step in steps:
        before = breakers.state(NAME), breakers.retry_after_s(NAME)
        match step:
            case "ask":
                allowed = breakers.allow_call(NAME)
                assert allowed or before[0] != "closed"
                assert not (allowed and before[0] == "open" and before[1] > 0)
            case "fail":
                breakers.record_failure(NAME, AWAY)
            case "hit":
                breakers.record_failure(NAME, DeadlineHit(""))
            case "answer":
                breakers.record_success(NAME)
            case _:
                now[0] += 0.3
        assert breakers.retry_after_s(NAME) <= ANSWERING.longest_pause_s
    now[0] += max(PROBE_LIMIT_S, ANSWERING.longest_pause_s)
    assert breakers.allow_call(NAME)
    breakers.record_success(NAME)
    assert breakers.is_closed(NAME)


@pytest.fixture
def probed() -> FakeScorer:
    """The model server as the manager's own thread asks it."""
    return FakeScorer()


@pytest.fixture
def manager(probed: FakeScorer, metrics: InferenceMetrics, now: list[float]) -> ModelManager:
    def clock() -> float:
        return now[0]

    serving = ServingState("tiny", metrics, clock)
    made = ModelManager(lambda *_: None, probed, serving, width=WIDTH, max_rows=4, clock=clock)
    made.take_routing_state(RoutingState("tiny", 1, 0, "test", (version(),)))
    made.reconcile()
    probed.calls.clear()
    return made


def away(matrix: Matrix) -> Matrix:
    raise AWAY


def shown(families: InferenceFamilies) -> str:
    samples = next(iter(families.breaker.collect())).samples
    (state,) = [s.labels["state"] for s in samples if s.value == 1]
    return state


def test_stream_sends_nothing_until_the_managers_probe_is_answered(
    handler: InferenceHandler,
    scorer: FakeScorer,
    probed: FakeScorer,
    manager: ModelManager,
    families: InferenceFamilies,
    now: list[float],
) -> None:
    def is_closed() -> bool:
        manager.reconcile()
        return manager.ready

    handler.plane = DataPlane(scorer, manager.serving, 5.0)
    handler.submit(MESSAGES).result(1.0)
    assert shown(families) == "closed"
    scorer.respond = probed.respond = away
    for _ in range(3):
        with pytest.raises(ModelUnavailable, match="away"):
            handler.submit(MESSAGES).result(1.0)
    sent = len(scorer.calls)
    assert shown(families) == "open"
    with pytest.raises(ModelUnavailable, match="no call is sent"):
        handler.submit(MESSAGES)
    assert not is_closed()
    assert probed.calls == [], "not before its time"
    now[0] += 0.5
    assert not is_closed()
    scorer.respond = probed.respond = mean_score
    with pytest.raises(ModelUnavailable, match="no call is sent"):
        handler.submit(MESSAGES)
    now[0] += 1.0
    assert is_closed()
    rows = [matrix[0].tolist() for matrix in probed.calls]
    assert rows == [pytest.approx(vector(0)["features"])] * 2, "a row that was seen"
    assert len(scorer.calls) == sent
    assert shown(families) == "closed"
    handler.submit(MESSAGES).result(1.0)


def test_deadline_hits_are_counted(
    handler: InferenceHandler, scorer: FakeScorer, families: InferenceFamilies
) -> None:
    def slow(matrix: Matrix) -> Matrix:
        raise DeadlineHit("too slow")

    scorer.respond = slow
    with pytest.raises(ModelUnavailable):
        handler.submit(MESSAGES).result(1.0)
    assert families.deadline_hits.labels("tiny", "tiny", "1")._value.get() == 1


def test_model_that_is_not_ready_opens_its_circuit_without_traffic(
    manager: ModelManager, probed: FakeScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_loaded(name: str) -> None:
        raise AWAY

    monkeypatch.setattr(probed, "model_ready", lambda name: False)
    monkeypatch.setattr(probed, "load_model", not_loaded)
    for _ in range(3):
        with pytest.raises(ModelUnavailable):
            manager.reconcile()
    assert manager.serving.breakers.state(NAME) == "open"


def test_new_champion_starts_with_a_closed_circuit(metrics: InferenceMetrics) -> None:
    serving = ServingState("tiny", metrics)
    serving.breakers.record_failure(NAME, AWAY, BESIDE)
    serving.swap_table(TABLE)
    assert serving.breakers.is_closed(NAME)
    serving.breakers.record_failure(NAME, DeadlineHit("5 s"))
    serving.swap_table(RouteTable("tiny", 2, CHAMPION))
    assert not serving.breakers.is_closed(NAME), "the same champion in another revision"
