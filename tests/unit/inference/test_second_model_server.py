"""A model server of another kind serves stream and REST: `ModelServer` is all that it needs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from harness.inference import (
    WIDTH,
    Published,
    batch,
    event,
    framed,
    infer_body,
    prediction,
    vector,
    version,
)
from penstock_inference.metrics import InferenceFamilies, InferenceMetrics
from penstock_inference.model_manager import ModelManager
from penstock_inference.model_server import (
    INPUT,
    Matrix,
    ModelServer,
    PendingScores,
    ServedModel,
    Tensors,
)
from penstock_inference.predictions import Signature
from penstock_inference.rest.app import PipelineService, create_app
from penstock_inference.rest.batching import RestScorer
from penstock_inference.scoring import DataPlane, ServingState
from penstock_inference.settings import GatewaySettings
from penstock_inference.stream import InferenceHandler
from penstock_schemas.errors import ModelRejected, ModelUnavailable
from penstock_schemas.records import RoutingState

ROWS = 40
POISON = np.float32(0.7)


class InMemoryServer(ModelServer):
    """Models are functions of this process; the repository is a dict of them."""

    def __init__(self, repository: dict[str, Callable[[Matrix], Matrix]]) -> None:
        self.repository = repository
        self.loaded: dict[str, Callable[[Matrix], Matrix]] = {}

    def start_inference(
        self, model: ServedModel, inputs: Tensors, timeout_s: float
    ) -> PendingScores:
        answer: Future[Matrix] = Future()
        if model.name not in self.loaded:
            answer.set_exception(ModelUnavailable(f"{model.name} is not loaded"))
        elif (inputs[INPUT][:, 0] == POISON).any():
            answer.set_exception(ModelRejected("the function has raised"))
        else:
            answer.set_result(self.loaded[model.name](inputs[INPUT]))
        return PendingScores(model, [answer])

    def model_ready(self, name: str) -> bool:
        return name in self.loaded

    def load_model(self, name: str) -> None:
        if name not in self.repository:
            raise ModelUnavailable(f"{name} is not in the repository")
        self.loaded[name] = self.repository[name]

    def reload_model(self, name: str) -> None:
        self.load_model(name)

    def model_metadata(self, name: str) -> ServedModel:
        return ServedModel(name, WIDTH, max_rows=1_024)


def first(matrix: Matrix) -> Matrix:
    return matrix[:, :1] * np.float32(1.0)


def first_and_ten(matrix: Matrix) -> Matrix:
    return matrix[:, :1] + np.float32(10.0)


@pytest.fixture
def server() -> InMemoryServer:
    return InMemoryServer({"tiny__1": first, "tiny__2": first_and_ten})


@pytest.fixture
def manager(server: InMemoryServer, metrics: InferenceMetrics) -> ModelManager:
    serving = ServingState("tiny", metrics)
    made = ModelManager(lambda *_: None, server, serving, width=WIDTH, max_rows=256)
    canary = version("2", alias="challenger", weight=50, state="canary")
    state = RoutingState("tiny", 1, 0, "test", (version(weight=50), canary))
    made.take_routing_state(state)
    made.reconcile()
    return made


@pytest.fixture
def plane(server: InMemoryServer, manager: ModelManager) -> DataPlane:
    return DataPlane(server, manager.serving, timeout_s=5.0)


@pytest.fixture
def client(plane: DataPlane, manager: ModelManager, families: InferenceFamilies) -> TestClient:
    service = PipelineService(
        Signature("tiny", 0.5, "gw"),
        WIDTH,
        scorer=RestScorer(plane, manager),
        publisher=Published(),
        vector=lambda body: replace(event(body), key="key1"),
    )
    return TestClient(create_app({"tiny": service}, GatewaySettings(), families))


def test_versions_are_loaded_through_the_protocol(
    server: InMemoryServer, manager: ModelManager
) -> None:
    assert manager.ready
    assert set(server.loaded) == {"tiny__1", "tiny__2"}
    assert manager.champion is not None
    assert manager.champion.model.max_rows == 256, "the pipeline's own limit is smaller"


def test_stream_is_served(
    handler: InferenceHandler, plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    handler.plane = plane
    messages = batch([framed(vector(i)) for i in range(ROWS)])
    handled = handler.submit(messages).result(1.0)
    assert [row for row, _ in handled.dead_letters] == [7], "the one row that both fail on"
    (output,) = handled.outputs
    found = [prediction(value) for value in output.values]
    assert len(found) == ROWS - 1
    assert {said["model_version"] for said in found} == {"1", "2"}
    for said in found:
        more = 10.0 if said["model_version"] == "2" else 0.0
        assert said["scores"] == [pytest.approx(said["features"][0] + more, rel=1e-5)]


def test_rest_is_served_by_the_same_versions(client: TestClient, plane: DataPlane) -> None:
    assert client.get("/v2/health/ready").status_code == 200
    answer = client.post("/v2/models/tiny/infer", json=infer_body(2))
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["data"] == [pytest.approx(0.0), pytest.approx(0.3)]
    said: dict[str, Any] = client.post("/predict/tiny", json={"amount": 3}).json()
    meets = plane.current_table().route_of(b"key1").version.version
    assert said["model_version"] == meets
    assert said["scores"] == [pytest.approx(13.0 if meets == "2" else 3.0)]


def test_rest_knows_a_bad_row_from_a_model_that_is_away(
    client: TestClient, server: InMemoryServer
) -> None:
    assert client.post("/v2/models/tiny/infer", json=infer_body(2)).status_code == 200
    bad = infer_body(1, data=[float(POISON), 0.0, 0.0])
    assert client.post("/v2/models/tiny/infer", json=bad).status_code == 400
    server.loaded.clear()
    assert client.post("/v2/models/tiny/infer", json=infer_body(2)).status_code == 503
