"""The handler of a tiny pipeline over a fake model server."""

from __future__ import annotations

import pytest
from harness.inference import NOW_MS, PREDICTION_ID, WIDTH, FakeScorer, version
from penstock_inference.metrics import InferenceFamilies, InferenceMetrics
from penstock_inference.model_server import ServedModel
from penstock_inference.predictions import Signature
from penstock_inference.scoring import DataPlane, ServingState
from penstock_inference.stream import Codecs, InferenceHandler
from penstock_inference.traffic_split import Route, RouteTable
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_schemas.schema_files import schema_text
from prometheus_client import CollectorRegistry


@pytest.fixture
def scorer() -> FakeScorer:
    return FakeScorer()


@pytest.fixture
def route() -> Route:
    return Route(version(), ServedModel("tiny__1", WIDTH, max_rows=4))


@pytest.fixture
def families() -> InferenceFamilies:
    return InferenceFamilies(CollectorRegistry())


@pytest.fixture
def metrics(families: InferenceFamilies) -> InferenceMetrics:
    return InferenceMetrics(families, "tiny")


@pytest.fixture
def serving(route: Route, metrics: InferenceMetrics) -> ServingState:
    made = ServingState("tiny", metrics)
    made.swap_table(RouteTable("tiny", 1, route))
    return made


@pytest.fixture
def handler(
    scorer: FakeScorer, serving: ServingState, metrics: InferenceMetrics
) -> InferenceHandler:
    return InferenceHandler(
        output_topic="tiny.predictions.v1",
        codecs=Codecs(
            ColumnarDecoder(
                schema_text("feature_vector.avsc"), lambda _: schema_text("feature_vector.avsc")
            ),
            ColumnarEncoder(schema_text("prediction.avsc"), PREDICTION_ID),
        ),
        plane=DataPlane(scorer, serving, timeout_s=5.0),
        signature=Signature("tiny", 0.3, "attempt-1"),
        metrics=metrics,
        clock_ms=lambda: NOW_MS,
    )
