"""TODO."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from harness.inference import (
    NOW_MS,
    FakeScorer,
    batch,
    framed,
    mean_score,
    prediction,
    vector,
    version,
)
from penstock_inference.metrics import InferenceMetrics
from penstock_inference.model_server import Matrix, ServedModel
from penstock_inference.scoring import DataPlane, ServingState
from penstock_inference.stream import InferenceHandler
from penstock_inference.traffic_split import Route
from penstock_schemas.errors import ModelRejected, ModelUnavailable, ShapeMismatch
from penstock_streaming.checkpoint import check_accounted
from penstock_streaming.handler import HandledBatch, MessageBatch


def handle(handler: InferenceHandler, messages: MessageBatch) -> HandledBatch:
    handled = handler.submit(messages).result(1.0)
    check_accounted(messages, handled)
    return handled


def test_prediction_says_all_that_the_contract_lists(handler: InferenceHandler) -> None:
    handled = handle(handler, batch([framed(vector(2))]))
    (output,) = handled.outputs
    assert output.topic == "tiny.predictions.v1"
    assert list(output.keys) == [b"key0"]
    assert list(output.partitions) == [0]
    (value,) = output.values
    assert prediction(value) == {
        "event_id": "e2",
        "event_time": 1_700_000_000_002,
        "predicted_at": NOW_MS,
        "pipeline": "tiny",
        "model_name": "tiny",
        "model_version": "1",
        "variant": "champion",
        "scores": [pytest.approx(0.24)],
        "decision": False,
        "threshold": pytest.approx(0.3),
        "features": [pytest.approx(0.2), pytest.approx(0.02), 0.5],
        "origin": {"topic": "tiny.events.v1", "partition": 1, "offset": 1002},
        "attempt": "attempt-1",
        "outcome": "predicted",
    }


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 9, 50])
def test_answers_meet_their_records_over_several_calls(
    handler: InferenceHandler, scorer: FakeScorer, rows: int
) -> None:
    handled = handle(handler, batch([framed(vector(i)) for i in range(rows)]))
    (output,) = handled.outputs
    assert [len(c) for c in scorer.calls] == [min(4, rows - at) for at in range(0, rows, 4)]
    for number, value in enumerate(output.values):
        found = prediction(value)
        assert found["event_id"] == f"e{number}"
        assert found["scores"][0] == pytest.approx(np.mean(found["features"]), rel=1e-5)
        assert found["decision"] == (found["scores"][0] >= found["threshold"])
    assert list(output.keys) == [f"key{i}".encode() for i in range(rows)]


def test_record_without_origin_is_its_own(handler: InferenceHandler) -> None:
    messages = batch(
        [framed(vector(i, origin=None if i == 1 else vector(i)["origin"])) for i in range(3)]
    )
    (output,) = handle(handler, messages).outputs
    assert [prediction(v)["origin"] for v in output.values] == [
        {"topic": "tiny.events.v1", "partition": 1, "offset": 1000},
        {"topic": "tiny.features.v1", "partition": 1, "offset": 101},
        {"topic": "tiny.events.v1", "partition": 1, "offset": 1002},
    ]


def test_each_bad_record_is_dead_in_its_class_and_neighbours_go_on(
    handler: InferenceHandler, scorer: FakeScorer
) -> None:
    def explode(matrix: Matrix) -> Matrix:
        return np.where(matrix[:, :1] > 1e30, np.nan, mean_score(matrix)).astype(np.float32)

    scorer.respond = explode
    good = framed(vector(0))
    values: list[bytes | None] = [
        good,
        framed(vector(1, features=[1.0, 2.0])),
        framed(vector(2, features=[1.0, float("nan"), 2.0])),
        framed(vector(3, features=[3e38, 0.0, 0.0])),
        good[:-2],
        b"junk",
        None,
        framed(vector(7)),
        framed(vector(8, features=[])),
    ]
    handled = handle(handler, batch(values))
    assert [(row, e.dead_letter_class) for row, e in handled.dead_letters] == [
        (1, "shape"),
        (2, "rule"),
        (3, "model"),
        (4, "decode"),
        (5, "decode"),
        (8, "shape"),
    ]
    assert handled.skipped == {"tombstone": 1}
    (output,) = handled.outputs
    assert [prediction(v)["event_id"] for v in output.values] == ["e0", "e7"]
    assert list(output.keys) == [b"key0", b"key7"]
    assert list(output.partitions) == [0, 1]
    assert output.rows is not None
    assert list(output.rows) == [0, 7]
    assert handled.origins[3] == "tiny.events.v1/1/1003"
    assert set(handled.origins) == {1, 2, 3, 8}, "an unreadable record has no origin to tell"
    named = {row for row, error in handled.dead_letters if error.model}
    assert named == {1, 2, 3, 8}, "what the model refused names it"


def test_batch_of_bad_records_asks_no_model(handler: InferenceHandler, scorer: FakeScorer) -> None:
    handled = handle(handler, batch([b"junk", framed(vector(1, features=[1.0]))]))
    assert [e.dead_letter_class for _, e in handled.dead_letters] == ["decode", "shape"]
    assert not scorer.calls


def test_row_that_the_model_fails_on_is_found(
    handler: InferenceHandler, scorer: FakeScorer, pauses: list[float]
) -> None:
    def fail_on(matrix: Matrix) -> Matrix:
        if (matrix[:, 0] == 6 / np.float32(10)).any():
            raise ModelRejected("boom")
        return mean_score(matrix)

    scorer.respond = fail_on
    handled = handle(handler, batch([framed(vector(i)) for i in range(10)]))
    assert [row for row, _ in handled.dead_letters] == [6]
    (output,) = handled.outputs
    assert [prediction(v)["event_id"] for v in output.values] == [
        f"e{i}" for i in range(10) if i != 6
    ]
    for value in output.values:
        found = prediction(value)
        assert found["scores"][0] == pytest.approx(np.mean(found["features"]), rel=1e-5)


@pytest.mark.parametrize(
    "make", [lambda: ModelUnavailable("away"), lambda: ModelRejected("the process died")]
)
def test_model_that_is_away_makes_no_dead_letter(
    handler: InferenceHandler,
    scorer: FakeScorer,
    make: Callable[[], Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(matrix: Matrix) -> Matrix:
        raise make()

    monkeypatch.setattr("penstock_inference.scoring.ISOLATION_S", 0.0)
    scorer.respond = away
    pending = handler.submit(batch([framed(vector(i)) for i in range(5)]))
    with pytest.raises(ModelUnavailable):
        pending.result(1.0)


def test_model_that_no_row_goes_through_is_suspected(
    scorer: FakeScorer, metrics: InferenceMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(matrix: Matrix) -> Matrix:
        raise ModelRejected("the process is not healthy")

    serving = ServingState("tiny", metrics)
    plane = DataPlane(scorer, serving, 5.0)
    route = Route(version(), ServedModel("tiny__1", 3, max_rows=4))
    row = np.array([[0.1, 0.2, 0.3]], dtype=np.float32)
    plane.ask_route(route, row)
    assert serving.suspects == {}
    scorer.respond = dead
    monkeypatch.setattr("penstock_inference.scoring.ISOLATION_S", 0.0)
    with pytest.raises(ModelUnavailable):
        plane.ask_route(route, row + 1)
    ((name, good),) = serving.suspects.items()
    assert name == "tiny__1"
    assert good is not None
    assert good.tolist() == row.tolist()


def test_refused_tensor_is_dead_for_every_row(
    handler: InferenceHandler, scorer: FakeScorer
) -> None:
    def refuse(matrix: Matrix) -> Matrix:
        raise ShapeMismatch("refused")

    scorer.respond = refuse
    handled = handle(handler, batch([framed(vector(i)) for i in range(3)]))
    assert [e.dead_letter_class for _, e in handled.dead_letters] == ["shape"] * 3


def test_nothing_is_taken_while_no_model_serves(
    handler: InferenceHandler, scorer: FakeScorer
) -> None:
    handler.plane.serving.swap_table(None)
    with pytest.raises(ModelUnavailable):
        handler.submit(batch([framed(vector(0))]))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited
