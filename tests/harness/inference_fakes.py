"""A model server for unit tests of inference, and the records it scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from penstock_inference.tensors import Matrix
from penstock_inference.triton import ScoringCall, ServedModel
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.errors import PenstockError
from penstock_schemas.records import ModelVersion
from penstock_schemas.schema_files import schema_text
from penstock_streaming.handler import MessageBatch

VECTOR_ID, PREDICTION_ID = 7, 8
WIDTH = 3
NOW_MS = 1_700_000_123_456
Respond = Callable[[Matrix], Matrix]


def version(number: str = "1", **changes: Any) -> ModelVersion:
    facts: dict[str, Any] = {
        "model_name": "tiny",
        "version": number,
        "served_as": f"tiny__{number}",
        "alias": "champion",
        "weight": 100,
        "digest": "sha256:0",
        "run_id": "r",
        "state": "serving",
    }
    return ModelVersion(**{**facts, **changes})


def mean_score(matrix: Matrix) -> Matrix:
    """Return the mean of each row: tells rows apart, so that a mix-up is seen."""
    return matrix.mean(axis=1, keepdims=True).astype(np.float32)


class FakeScorer:
    """A model server that answers with a function, or one per model; every call is recorded."""

    def __init__(self) -> None:
        self.respond: Respond = mean_score
        self.by_model: dict[str, Respond] = {}
        self.calls: list[Matrix] = []
        self.asked: list[tuple[str, float]] = []

    def start(self, model: ServedModel, matrix: Matrix, timeout_s: float) -> ScoringCall:
        chunks = []
        for at in range(0, len(matrix), model.max_rows):
            chunk: Future[Matrix] = Future()
            try:
                self.asked.append((model.name, timeout_s))
                chunk.set_result(self._answer(model.name, matrix[at : at + model.max_rows]))
            except PenstockError as exc:
                chunk.set_exception(exc)
            chunks.append(chunk)
        return ScoringCall(model, chunks)

    def infer(self, model: ServedModel, matrix: Matrix, timeout_s: float) -> Matrix:
        return self.start(model, matrix, timeout_s).scores(timeout_s)

    def _answer(self, name: str, rows: Matrix) -> Matrix:
        self.calls.append(rows)
        return self.by_model.get(name, self.respond)(rows)


def vector(number: int, **changes: Any) -> dict[str, Any]:
    record = {
        "event_id": f"e{number}",
        "entity_key": f"k{number}",
        "event_time": 1_700_000_000_000 + number,
        "pipeline": "tiny",
        "origin": {"topic": "tiny.events.v1", "partition": 1, "offset": 1_000 + number},
        "features": [number / 10, number / 100, 0.5],
    }
    return {**record, **changes}


def framed(record: dict[str, Any]) -> bytes:
    return encode_one(schema_text("feature_vector.avsc"), VECTOR_ID, record)


def batch(values: Sequence[bytes | None]) -> MessageBatch:
    n = len(values)
    return MessageBatch(
        topic="tiny.features.v1",
        messages=[],
        values=values,
        keys=[f"key{i}".encode() for i in range(n)],
        partitions=np.arange(n, dtype=np.int32) % 3,
        offsets=np.arange(100, 100 + n, dtype=np.int64),
    )


def prediction(value: bytes | None) -> dict[str, Any]:
    assert value is not None
    text = schema_text("prediction.avsc")
    return decode_one(value, lambda _: text, text)
