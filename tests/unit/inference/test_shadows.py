"""Shadow versions: shown what others have answered, and nothing waits for them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from harness.inference import (
    WIDTH,
    FakeScorer,
    batch,
    framed,
    mean_score,
    vector,
    version,
)
from harness.waiting import eventually
from penstock_inference.circuit_breaker import CircuitBreakers
from penstock_inference.metrics import InferenceFamilies, InferenceMetrics
from penstock_inference.model_server import Matrix, ServedModel
from penstock_inference.predictions import Signature
from penstock_inference.publisher import PredictionPublisher
from penstock_inference.settings import ShadowSettings
from penstock_inference.shadows import SLICE_ROWS, Shadows, ShownRows
from penstock_inference.stream import InferenceHandler
from penstock_inference.traffic_split import Route, RouteTable, Share
from penstock_schemas.errors import ModelRejected, ModelUnavailable

SHADOW = "tiny__9"
ROWS = 10


def route(number: str, variant: str = "champion") -> Route:
    return Route(version(number), ServedModel(f"tiny__{number}", WIDTH, max_rows=4), variant)


TABLE = RouteTable("tiny", 2, route("1"), (), (route("9", "shadow"),))


class Topic(PredictionPublisher):
    """What was produced: (event id, key, partition, version, variant, scores)."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.closed = False

    def publish(
        self, predictions: Any, keys: Sequence[bytes | None], partitions: Any = None
    ) -> None:
        assert predictions.num_rows == len(keys) == len(partitions) <= SLICE_ROWS
        for row, key, partition in zip(predictions.to_pylist(), keys, partitions, strict=True):
            self.rows.append({**row, "key": key, "partition": int(partition)})

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def topic() -> Topic:
    return Topic()


@pytest.fixture
def models() -> FakeScorer:
    made = FakeScorer()
    made.by_model[SHADOW] = lambda matrix: mean_score(matrix) + np.float32(50)
    return made


def make(models: FakeScorer, topic: Topic, metrics: InferenceMetrics, **settings: Any) -> Shadows:
    return Shadows(
        ShadowSettings(**settings),
        models,
        lambda: topic,
        Signature("tiny", 0.3, "attempt-1"),
        metrics,
        CircuitBreakers(),
    )


class Offered(Shadows):
    """Keeps what the handler offers."""

    def __init__(self) -> None:
        self.shown: list[ShownRows] = []

    def offer_rows(self, shown: ShownRows) -> None:
        self.shown.append(shown)


def shown_by(handler: InferenceHandler, table: RouteTable, values: list[Any]) -> list[ShownRows]:
    """Return what the handler offers to the shadows of a batch."""
    handler.plane.serving.swap_table(table)
    handler.shadows = offered = Offered()
    handler.submit(batch(values)).result(1.0)
    return offered.shown


def values(count: int = ROWS) -> list[Any]:
    return [framed(vector(number)) for number in range(count)]


def dropped(families: InferenceFamilies, reason: str) -> float:
    return families.shadow_dropped.labels("tiny", reason)._value.get()


def test_shadow_sees_every_row_that_was_answered_and_nothing_else(
    handler: InferenceHandler, models: FakeScorer, topic: Topic, metrics: InferenceMetrics
) -> None:
    given = [*values(), None, framed(vector(99, features=[1.0]))]
    (shown,) = shown_by(handler, TABLE, given)
    make(models, topic, metrics).show_rows(shown)
    assert [row["event_id"] for row in topic.rows] == [f"e{n}" for n in range(ROWS)]
    for number, row in enumerate(topic.rows):
        assert (row["model_version"], row["variant"], row["outcome"]) == (
            "9",
            "shadow",
            "predicted",
        )
        assert row["scores"] == [pytest.approx(np.mean(row["features"]) + 50, rel=1e-5)]
        assert (row["key"], row["partition"]) == (f"key{number}".encode(), number % 3)


def test_primary_answers_do_not_change_with_a_shadow(handler: InferenceHandler) -> None:
    alone = RouteTable("tiny", 2, route("1"))
    found = []
    for table in (alone, TABLE):
        handler.plane.serving.swap_table(table)
        found.append(list(handler.submit(batch(values())).result(1.0).outputs[0].values))
    assert found[0] == found[1]


def test_rows_of_a_canary_are_shown_too(handler: InferenceHandler) -> None:
    canaried = RouteTable(
        "tiny", 2, route("1"), (Share(route("2", "canary"), 0, 5000),), TABLE.shadows
    )
    (shown,) = shown_by(handler, canaried, values())
    assert len(shown) == ROWS


def test_nothing_is_offered_without_shadows(handler: InferenceHandler) -> None:
    assert shown_by(handler, RouteTable("tiny", 1, route("1")), values()) == []


def test_share_is_of_the_keys_and_always_the_same_ones(handler: InferenceHandler) -> None:
    (shown,) = shown_by(handler, TABLE, values(200))
    half = {bytes(key or b"") for key in shown.share(50).keys}
    assert 60 < len(half) < 140
    assert {bytes(key or b"") for key in shown.share(30).keys} < half
    assert len(shown.share(0)) == 0
    assert shown.share(100) is shown


def test_offer_returns_at_once_and_drops_beyond_the_queue(
    handler: InferenceHandler,
    models: FakeScorer,
    topic: Topic,
    metrics: InferenceMetrics,
    families: InferenceFamilies,
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(matrix: Matrix) -> Matrix:
        asked.set()
        assert go_on.wait(20)
        return mean_score(matrix)

    models.by_model[SHADOW] = slow
    (shown,) = shown_by(handler, TABLE, values())
    shadows = make(models, topic, metrics, queue_rows=3 * ROWS)
    shadows.start_thread()
    shadows.offer_rows(shown)
    assert asked.wait(20)
    for _ in range(5):
        shadows.offer_rows(shown)
    assert dropped(families, "queue") == 2 * ROWS
    go_on.set()
    eventually(lambda: len(topic.rows) == 4 * ROWS, 20, "what waited is shown")
    shadows.stop_thread()
    assert topic.closed


@pytest.mark.parametrize("error", [ModelUnavailable("away"), ModelRejected("boom")])
def test_failing_shadow_is_left_alone_and_counted(
    handler: InferenceHandler,
    models: FakeScorer,
    topic: Topic,
    metrics: InferenceMetrics,
    families: InferenceFamilies,
    error: Exception,
) -> None:
    def fail(matrix: Matrix) -> Matrix:
        raise error

    models.by_model[SHADOW] = fail
    (shown,) = shown_by(handler, TABLE, values())
    shadows = make(models, topic, metrics)
    for _ in range(5):
        shadows.show_rows(shown)
    assert len(models.asked) <= -(-ROWS // 4), "asked once, in as many calls as its rows need"
    assert dropped(families, "model") == 5 * ROWS
    assert topic.rows == []


def test_rows_that_a_shadow_answers_with_nan_are_dropped(
    handler: InferenceHandler,
    models: FakeScorer,
    topic: Topic,
    metrics: InferenceMetrics,
    families: InferenceFamilies,
) -> None:
    def nan_first(matrix: Matrix) -> Matrix:
        scores = mean_score(matrix)
        scores[matrix[:, 0] == 0] = np.nan
        return scores

    models.by_model[SHADOW] = nan_first
    (shown,) = shown_by(handler, TABLE, values())
    make(models, topic, metrics).show_rows(shown)
    assert [row["event_id"] for row in topic.rows] == [f"e{n}" for n in range(1, ROWS)]
    assert dropped(families, "model") == 1
