from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from penstock_monitoring.label_join import join_labels
from penstock_schemas.codec import encode_one
from penstock_schemas.schema_files import schema_text
from penstock_training_job.rows import (
    Chunk,
    LabelColumns,
    NewestRows,
    PredictionColumns,
    PredictionFilter,
    features_of,
    ids_digest,
    labels_of,
    scores_of,
)

SCHEMAS = {1: schema_text("prediction.avsc"), 2: schema_text("interaction.avsc")}
WANTED = PredictionFilter(2, ("champion", "canary"))


def chunk(
    values: list[bytes | None], partition: int = 0, first: int = 0, topic: str = "t"
) -> Chunk:
    return Chunk(topic, partition, np.arange(first, first + len(values)), values)


def prediction(event_id: str, at: int = 0, score: float = 0.5, **changes: object) -> bytes:
    record = {
        "event_id": event_id,
        "event_time": at,
        "predicted_at": 0,
        "pipeline": "p",
        "model_name": "m",
        "model_version": "1",
        "variant": "champion",
        "scores": [score],
        "decision": False,
        "threshold": 0.5,
        "features": [float(at), score],
        "origin": None,
        "attempt": "a",
        "outcome": "predicted",
        **changes,
    }
    return encode_one(SCHEMAS[1], 1, record)


def label(event_id: str, value: float | None = 1.0, at: int = 0) -> bytes:
    record = {"event_id": event_id, "label": value, "kind": None, "value": None, "occurred_at": at}
    return encode_one(SCHEMAS[2], 2, record)


def predictions(
    *values: bytes | None, wanted: PredictionFilter = WANTED, partition: int = 0
) -> pa.Table:
    return PredictionColumns(SCHEMAS.__getitem__, wanted).table(chunk([*values], partition))


def labels(*values: bytes | None, partition: int = 0) -> pa.Table:
    return LabelColumns(SCHEMAS.__getitem__).table(chunk([*values], partition))


def ids(table: pa.Table | None) -> list[str]:
    return [] if table is None else table["event_id"].to_pylist()


def test_only_wanted_predictions_are_kept() -> None:
    values = (
        prediction("good", 5),
        prediction("shadow", 5, variant="shadow"),
        prediction("expired", 5, outcome="expired", scores=[]),
        prediction("narrow", 5, features=[1.0]),
        prediction("old", 4),
        prediction("other", 5, model_version="2"),
        None,
        b"junk",
        prediction("canary", 6, variant="canary"),
    )
    assert ids(predictions(*values)) == ["good", "old", "other", "canary"]
    wanted = PredictionFilter(2, ("champion", "canary"), since_ms=5, model_version="1")
    found = predictions(*values, wanted=wanted)
    assert ids(found) == ["good", "canary"]
    assert found["offset"].to_pylist() == [0, 8]


def test_only_zero_and_one_are_labels() -> None:
    values = (label("a", 0.0), label("b", None), label("c", 2.0), None, b"junk", label("d", 1.0))
    assert ids(labels(*values)) == ["a", "d"]


def test_rows_are_joined_by_event_in_the_order_of_time_and_id() -> None:
    found = join_labels(
        predictions(prediction("b", 2, 0.2), prediction("c", 1, 0.3), prediction("a", 2, 0.4)),
        labels(label("a", 1.0), label("x"), label("c", 0.0), label("b", 0.0)),
    )
    assert found is not None
    assert ids(found) == ["c", "a", "b"]
    assert labels_of(found).tolist() == [0.0, 1.0, 0.0]
    assert scores_of(found) == pytest.approx([0.3, 0.4, 0.2])
    matrix = features_of(found, 2)
    assert matrix.dtype == np.float32
    assert matrix == pytest.approx(np.array([[1, 0.3], [2, 0.4], [2, 0.2]]))


def test_what_has_no_label_or_no_prediction_is_no_row() -> None:
    assert join_labels(predictions(prediction("a")), labels()) is None
    assert join_labels(predictions(), labels(label("a"))) is None
    assert join_labels(predictions(prediction("a")), labels(label("b"))) is None


def test_label_that_became_known_first_wins_whatever_was_read_first() -> None:
    late, early = labels(label("a", 0.0, at=9)), labels(label("a", 1.0, at=3), partition=1)
    for order in ([late, early], [early, late]):
        found = join_labels(predictions(prediction("a")), pa.concat_tables(order))
        assert found is not None
        assert labels_of(found).tolist() == [1.0]


def test_first_prediction_of_an_event_wins() -> None:
    found = join_labels(
        predictions(prediction("a", 1, 0.1), prediction("b", 1, 0.9), prediction("a", 1, 0.7)),
        labels(label("a"), label("b")),
    )
    assert found is not None
    assert scores_of(found) == pytest.approx([0.1, 0.9])


def test_digest_of_ids_depends_on_their_order() -> None:
    one = pa.table({"event_id": ["a", "b"]})
    other = pa.table({"event_id": ["b", "a"]})
    assert ids_digest(one) != ids_digest(other)


def test_kept_rows_are_bounded_and_tell_from_where_on_nothing_is_missing() -> None:
    kept = NewestRows(limit=5)
    for first in (0, 3, 6):
        part = chunk([prediction(f"e{first + i}") for i in range(3)], 0, first)
        kept.append_chunk(part, PredictionColumns(SCHEMAS.__getitem__, WANTED).table(part))
    table = kept.table()
    assert ids(table) == ["e6", "e7", "e8"]
    assert kept.first == {("t", 0): 6}


def test_newest_chunk_stays_however_large_it_is() -> None:
    kept = NewestRows(limit=1)
    part = chunk([prediction("a"), prediction("b")])
    kept.append_chunk(part, PredictionColumns(SCHEMAS.__getitem__, WANTED).table(part))
    assert ids(kept.table()) == ["a", "b"]
    assert kept.first == {}
    assert NewestRows(1).table() is None
