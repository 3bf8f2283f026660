"""Events older than the deadline: answered at once, by nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from harness.inference import (
    NOW_MS,
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
from penstock_inference.model_server import ServedModel
from penstock_inference.scoring import DataPlane, ServingState
from penstock_inference.stream import InferenceHandler
from penstock_inference.traffic_split import Route, RouteTable, Share
from penstock_schemas.errors import ModelUnavailable
from penstock_streaming.checkpoint import check_accounted
from penstock_streaming.handler import HandledBatch, MessageBatch

DEADLINE_MS = 1_000
OLD, FRESH = NOW_MS - DEADLINE_MS - 1, NOW_MS - DEADLINE_MS
ROWS = 12


def route(number: str, variant: str = "champion") -> Route:
    return Route(version(number), ServedModel(f"tiny__{number}", WIDTH, max_rows=4), variant)


ALONE = RouteTable("tiny", 1, route("1"))
CANARIED = RouteTable("tiny", 2, route("1"), (Share(route("2", "canary"), 0, 4000),))


def messages(old: set[int], **changes: Any) -> MessageBatch:
    times = [OLD if row in old else FRESH for row in range(ROWS)]
    rows = [vector(row, event_time=times[row], **changes) for row in range(ROWS)]
    return batch([framed(row) for row in rows])


def with_deadline(
    handler: InferenceHandler, table: RouteTable = ALONE, deadline_ms: int | None = DEADLINE_MS
) -> InferenceHandler:
    serving = ServingState("tiny", handler.metrics)
    serving.swap_table(table)
    handler.plane = DataPlane(handler.plane.server, serving, 5.0)
    handler.deadline_ms = lambda: deadline_ms
    return handler


def handle(handler: InferenceHandler, taken: MessageBatch) -> HandledBatch:
    handled = handler.submit(taken).result(1.0)
    check_accounted(taken, handled)
    return handled


def said(handled: HandledBatch) -> list[dict[str, Any]]:
    (output,) = handled.outputs
    return [prediction(value) for value in output.values]


@pytest.mark.parametrize("table", [ALONE, CANARIED], ids=["champion alone", "with a canary"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(old=st.sets(st.integers(0, ROWS - 1)))
def test_old_rows_expire_in_their_place_and_the_others_are_answered(
    handler: InferenceHandler, table: RouteTable, old: set[int]
) -> None:
    scorer = handler.plane.server
    assert isinstance(scorer, FakeScorer)
    scorer.calls.clear()
    taken = messages(old)
    handled = handle(with_deadline(handler, table), taken)
    found = said(handled)
    assert [f["event_id"] for f in found] == [f"e{row}" for row in range(ROWS)], "order stays"
    expected = ["2" if at else "1" for at in table.split(taken.keys)]
    assert [f["model_version"] for f in found] == expected, "who would have answered"
    for row, record in enumerate(found):
        if row in old:
            assert (record["outcome"], record["scores"], record["decision"]) == (
                "expired",
                [],
                False,
            )
        else:
            assert record["outcome"] == "predicted"
            assert record["scores"] == [pytest.approx(np.mean(record["features"]), rel=1e-5)]
    assert sum(map(len, scorer.calls)) == ROWS - len(old), "the model is not asked about the old"


def test_expired_events_are_counted_apart(
    handler: InferenceHandler, families: InferenceFamilies
) -> None:
    handle(with_deadline(handler), messages({1, 2, 5}))
    assert families.expired.labels("tiny")._value.get() == 3
    counted = families.predictions.labels("tiny", "tiny", "1", "champion")._value.get()
    assert counted == ROWS - 3


def test_nothing_expires_without_a_deadline(handler: InferenceHandler) -> None:
    handled = handle(with_deadline(handler, deadline_ms=None), messages(set(range(ROWS))))
    assert {f["outcome"] for f in said(handled)} == {"predicted"}


def test_all_expired_needs_no_model_that_answers(
    handler: InferenceHandler, scorer: FakeScorer
) -> None:
    def away(matrix: Any) -> Any:
        raise ModelUnavailable("away")

    scorer.respond = away
    handled = handle(with_deadline(handler), messages(set(range(ROWS))))
    assert {f["outcome"] for f in said(handled)} == {"expired"}
    assert scorer.calls == []


def test_bad_rows_are_dead_letters_however_old(
    handler: InferenceHandler, scorer: FakeScorer
) -> None:
    def nan_in_third(matrix: Any) -> Any:
        bad = matrix[:, :1] == np.float32(0.3)
        return np.where(bad, np.nan, mean_score(matrix)).astype(np.float32)

    scorer.respond = nan_in_third
    times = {0: OLD, 1: OLD}
    values: list[bytes | None] = [
        framed(vector(row, event_time=times.get(row, FRESH))) for row in range(6)
    ]
    values[1] = framed(vector(1, event_time=OLD, features=[1.0]))
    values[4] = None
    taken = replace(batch(values))
    handled = handle(with_deadline(handler), taken)
    assert [(row, e.dead_letter_class) for row, e in handled.dead_letters] == [
        (1, "shape"),
        (3, "model"),
    ]
    assert handled.skipped == {"tombstone": 1}
    (output,) = handled.outputs
    assert output.rows is not None
    assert list(output.rows) == [0, 2, 5]
    assert [f["outcome"] for f in said(handled)] == ["expired", "predicted", "predicted"]


def test_deadline_may_change_while_running(handler: InferenceHandler) -> None:
    limits: list[int | None] = [None, DEADLINE_MS]
    handler.deadline_ms = lambda: limits[0]
    assert said(handle(handler, messages({0})))[0]["outcome"] == "predicted"
    limits.pop(0)
    assert said(handle(handler, messages({0})))[0]["outcome"] == "expired"
