"""Predictions and interactions become observations."""

from __future__ import annotations

from typing import Any

import pytest
from harness.drift import SCHEMA_ID, decoder, output_rows, records
from penstock_drift.rekey import INTERACTION_SCHEMA, PREDICTION_SCHEMA, RekeyHandler
from penstock_schemas.codec import ColumnarEncoder
from penstock_schemas.schema_files import schema_text
from penstock_streaming.checkpoint import check_accounted
from penstock_streaming.handler import HandledBatch

PREDICTION = {
    "event_id": "a",
    "event_time": 1_000,
    "predicted_at": 2_000,
    "pipeline": "p",
    "model_name": "m",
    "model_version": "3",
    "variant": "champion",
    "scores": [0.25, 0.75],
    "decision": False,
    "threshold": 0.5,
    "features": [1.0, 2.5],
    "origin": {"topic": "t", "partition": 1, "offset": 2},
    "attempt": "x",
    "outcome": "predicted",
}
INTERACTION = {"event_id": "a", "label": 1.0, "kind": None, "value": None, "occurred_at": 9_000}


def rekeyed(source: Any, rows: list[dict[str, Any]]) -> HandledBatch:
    file, reader = {
        "prediction": ("prediction.avsc", PREDICTION_SCHEMA),
        "label": ("interaction.avsc", INTERACTION_SCHEMA),
    }[source]
    encoder = ColumnarEncoder(schema_text("observation.avsc"), SCHEMA_ID)
    batch = records(file, rows)
    handled = RekeyHandler(source, decoder(reader, file), encoder, "o").submit(batch).handled
    check_accounted(batch, handled)
    return handled


def test_prediction() -> None:
    handled = rekeyed("prediction", [PREDICTION])
    assert output_rows(handled, "observation.avsc", "o") == [
        {
            "event_id": "a",
            "time": 1_000,
            "label": None,
            "score": 0.25,
            "model_name": "m",
            "model_version": "3",
            "variant": "champion",
            "features": [1.0, 2.5],
        }
    ]
    (output,) = handled.outputs
    assert list(output.keys) == [b"a"]
    assert list(output.partitions) == [0]


def test_label() -> None:
    (row,) = output_rows(rekeyed("label", [INTERACTION]), "observation.avsc", "o")
    assert (row["event_id"], row["time"], row["label"], row["score"]) == ("a", 9_000, 1.0, None)
    assert row["features"] == []


@pytest.mark.parametrize("rows", [1, 40], ids=["row by row", "columns"])
def test_what_nobody_watches_is_counted(rows: int) -> None:
    others = [{"outcome": "expired", "scores": []}, {"outcome": "duplicate"}, {"variant": "shadow"}]
    batch = [{**PREDICTION, **other} for other in others] * rows + [
        {**PREDICTION, "variant": "canary"}
    ]
    handled = rekeyed("prediction", batch)
    assert handled.skipped == {"no_prediction": 3 * rows}
    (row,) = output_rows(handled, "observation.avsc", "o")
    assert row["variant"] == "canary"
    handled = rekeyed("label", [{**INTERACTION, "label": None, "kind": "click"}] * rows)
    assert handled.skipped == {"no_label": rows}
    assert not handled.outputs


@pytest.mark.parametrize("rows", [1, 40], ids=["row by row", "columns"])
def test_what_is_wrong_is_refused_and_its_neighbours_go_on(rows: int) -> None:
    wrong = [{"scores": []}, {"scores": [float("nan")]}, {"event_id": ""}]
    good = [{**PREDICTION, "event_id": f"g{n}"} for n in range(rows)]
    handled = rekeyed("prediction", [*good, *({**PREDICTION, **w} for w in wrong), *good])
    assert [row for row, _ in handled.dead_letters] == [rows, rows + 1, rows + 2]
    assert {error.dead_letter_class for _, error in handled.dead_letters} == {"rule"}
    ids = [row["event_id"] for row in output_rows(handled, "observation.avsc", "o")]
    assert ids == [f"g{n}" for n in range(rows)] * 2
    wrong_labels = [{"label": float("inf")}, {"label": float("nan")}, {"event_id": ""}]
    handled = rekeyed("label", [{**INTERACTION, **w} for w in wrong_labels] + [INTERACTION])
    assert len(handled.dead_letters) == 3
    assert handled.terminal == 1
