"""A gateway over a model that is not there: for tests of what it says over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from fastapi import FastAPI
from harness.inference_fakes import WIDTH, mean_score, version
from penstock_inference.metrics import InferenceFamilies
from penstock_inference.pipeline import EventVector, Signature
from penstock_inference.rest.app import PipelineService, create_app
from penstock_inference.routing import Route
from penstock_inference.scoring import Scored
from penstock_inference.settings import GatewaySettings
from penstock_inference.tensors import Matrix
from penstock_inference.triton import ServedModel
from penstock_schemas.codec import ColumnarEncoder
from penstock_schemas.errors import ModelUnavailable, RuleViolation
from penstock_schemas.schema_files import schema_text
from prometheus_client import CollectorRegistry


class FakeLink:
    """The gateway's view of one model; it can be away, and ``score`` can be replaced."""

    def __init__(self) -> None:
        self.is_away = False
        self.versions = ["1"]
        self.the_route = Route(version(), ServedModel("tiny__1", WIDTH, 1024))
        self.canary = Route(version("2"), ServedModel("tiny__2", WIDTH, 1024), "canary")
        self.canary_keys: set[bytes | None] = set()

    @property
    def ready(self) -> bool:
        return not self.is_away

    async def route(self, number: str | None) -> Route | None:
        return self.the_route if number in (None, "1") else None

    async def score(self, route: Route, matrix: Matrix) -> Scored:
        if self.is_away:
            raise ModelUnavailable("the model server does not answer")
        return Scored(route, mean_score(matrix))

    async def answer(self, key: bytes | None, matrix: Matrix) -> Scored:
        route = self.canary if key in self.canary_keys else self.the_route
        return await self.score(route, matrix)


class Published(list[tuple[bytes | None, dict[str, Any]]]):
    """What was handed to the topic of REST predictions; all of it can be written as Avro."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder = ColumnarEncoder(schema_text("prediction.avsc"), 1)

    def publish(self, key: bytes | None, predictions: pa.RecordBatch) -> None:
        self._encoder.encode(predictions)
        # An event may have a time that Python has none for.
        shown = predictions.drop_columns(["event_time", "predicted_at"])
        self.extend((key, row) for row in shown.to_pylist())


def event(body: bytes) -> EventVector:
    """Return the vector of an event with an amount, which must not be negative."""
    fields = json.loads(body)
    if not isinstance(fields.get("amount"), int | float) or fields["amount"] < 0:
        raise RuleViolation("a rule is broken", field="amount", expected="at least 0", got="-1")
    row = np.full((1, WIDTH), fields["amount"], dtype=np.float32)
    return EventVector("e1", "k1", 1_700_000_000_000, fields, row)


def gateway(
    link: FakeLink,
    published: Published,
    families: InferenceFamilies | None = None,
    vector: Callable[[bytes], EventVector] = event,
    **settings: Any,
) -> FastAPI:
    """Return the gateway of the pipeline ``tiny``, with small limits unless told otherwise."""
    signature = Signature("tiny", 0.5, "gw")
    service = PipelineService(signature, WIDTH, scorer=link, publisher=published, vector=vector)
    limits = GatewaySettings(**{"max_in_flight": 2, "max_request_rows": 8, **settings})
    families = families or InferenceFamilies(CollectorRegistry())
    return create_app({"tiny": service}, limits, families)


def infer_body(rows: int = 2, **changes: Any) -> dict[str, Any]:
    """Return an inference request; the changes are of its tensor."""
    tensor = {
        "name": "features",
        "shape": [rows, WIDTH],
        "datatype": "FP32",
        "data": [i / 10 for i in range(rows * WIDTH)],
    }
    return {"inputs": [{**tensor, **changes}]}
