from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from harness.inference import WIDTH, FakeLink, Published, gateway, infer_body, mean_score
from penstock_inference.metrics import InferenceFamilies
from penstock_inference.model_server import Matrix
from penstock_inference.rest import protocol
from penstock_inference.scoring import Scored
from penstock_inference.traffic_split import Route


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def client(
    link: FakeLink, published: Published, families: InferenceFamilies
) -> Iterator[TestClient]:
    with TestClient(gateway(link, published, families)) as made:
        yield made


def test_health_and_metadata(client: TestClient, link: FakeLink) -> None:
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200
    assert client.get("/v2").json()["name"] == "penstock"
    assert client.get("/v2/models/tiny/ready").status_code == 200
    expected = {
        "name": "tiny",
        "versions": ["1"],
        "platform": "penstock",
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, WIDTH]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 1]}],
    }
    assert client.get("/v2/models/tiny").json() == expected
    assert client.get("/v2/models/tiny/versions/1").json() == expected
    link.is_away = True
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/v2/models/tiny/ready").status_code == 503


@pytest.mark.parametrize("path", ["tiny/infer", "tiny/versions/1/infer"])
@pytest.mark.parametrize("nested", [False, True])
def test_infer_answers_row_by_row(client: TestClient, path: str, nested: bool) -> None:
    body = infer_body(rows=2)
    if nested:
        data = body["inputs"][0]["data"]
        body["inputs"][0]["data"] = [data[:WIDTH], data[WIDTH:]]
    answer = client.post(f"/v2/models/{path}", json={**body, "id": "r7"})
    assert answer.status_code == 200
    found = answer.json()
    assert (found["model_name"], found["model_version"], found["id"]) == ("tiny", "1", "r7")
    (output,) = found["outputs"]
    assert output["shape"] == [2, 1]
    assert output["data"] == pytest.approx([0.1, 0.4])


def test_binary_tensors_both_ways(client: TestClient) -> None:
    values = np.arange(6, dtype="<f4")
    body = infer_body(rows=2, parameters={"binary_data_size": values.nbytes})
    del body["inputs"][0]["data"]
    body["outputs"] = [{"name": "scores", "parameters": {"binary_data": True}}]
    header = json.dumps(body).encode()
    answer = client.post(
        "/v2/models/tiny/infer",
        content=header + values.tobytes(),
        headers={protocol.HEADER_LENGTH: str(len(header))},
    )
    length = int(answer.headers[protocol.HEADER_LENGTH])
    (output,) = json.loads(answer.content[:length])["outputs"]
    assert output["parameters"]["binary_data_size"] == 8
    assert np.frombuffer(answer.content[length:], "<f4").tolist() == [1.0, 4.0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "x"}, "inputs[0].name"),
        ({"datatype": "FP64"}, "inputs[0].datatype"),
        ({"shape": [2]}, "inputs[0].shape"),
        ({"shape": [2, WIDTH + 1]}, "features"),
        ({"shape": [True, WIDTH]}, "inputs[0].shape"),
        ({"shape": [0, WIDTH], "data": []}, "inputs[0].shape"),
        ({"shape": [9, WIDTH]}, "inputs[0].shape"),
        ({"data": [1.0]}, "inputs[0].data"),
        ({"data": None}, "data"),
        ({"data": [[[1.0]]]}, "data"),
        ({"data": ["1"] * 6}, "features[0]"),
        ({"data": [0.0, True] * 3}, "features[1]"),
        ({"data": [0.0, 1e39] * 3}, "features[1]"),
        ({"data": [0.0, 10**400] * 3}, "features[1]"),
        ({"data": [[1.0, 2.0], [3.0, 4.0, 5.0, 6.0]]}, "inputs[0].data[0]"),
        ({"data": [[1.0, 2.0, 3.0], 4.0]}, "data"),
        ({"shape": [2, -WIDTH]}, "inputs[0].shape"),
        ({"shape": [2**63, 2**63]}, "features"),
        ({"shape": [2.0, WIDTH]}, "inputs[0].shape"),
        ({"parameters": {"binary_data_size": 24}}, "inputs[0].data"),
        (
            {"parameters": {"shared_memory_region": "r"}},
            "inputs[0].parameters.shared_memory_region",
        ),
        ({"parameters": 1}, "inputs[0].parameters"),
    ],
)
def test_wrong_tensor_is_named(client: TestClient, changes: dict[str, Any], field: str) -> None:
    answer = client.post("/v2/models/tiny/infer", json=infer_body(**changes))
    assert answer.status_code == 400
    found = answer.json()
    assert found["field"] == field
    assert found["error"]
    assert found["expected"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000, b'{"inputs": []}', b'{"inputs": 3}']
)
def test_wrong_body_is_the_callers_fault(client: TestClient, body: bytes) -> None:
    answer = client.post("/v2/models/tiny/infer", content=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "field", "expected", "got"}


def test_output_that_is_not_there(client: TestClient) -> None:
    answer = client.post("/v2/models/tiny/infer", json={**infer_body(), "outputs": [{"name": "x"}]})
    assert answer.status_code == 400
    assert answer.json()["expected"] == "scores"


@pytest.mark.parametrize(
    "path", ["/v2/models/nope/infer", "/v2/models/tiny/versions/9/infer", "/predict/nope"]
)
def test_unknown_model_or_version(client: TestClient, path: str) -> None:
    answer = client.post(path, json=infer_body())
    assert answer.status_code == 404
    assert "known are" in answer.json()["error"]


def test_predict_by_features(client: TestClient, published: Published) -> None:
    answer = client.post("/predict/tiny", json={"features": [0.2, 0.4, 0.9], "event_id": "mine"})
    assert answer.json() == {
        "event_id": "mine",
        "inputs": {"features": [0.2, 0.4, 0.9]},
        "scores": [pytest.approx(0.5)],
        "decision": True,
        "threshold": 0.5,
        "model_version": "1",
    }
    ((key, prediction),) = published
    assert key is None
    assert prediction["origin"] is None
    assert prediction["event_id"] == "mine"
    assert prediction["features"] == pytest.approx([0.2, 0.4, 0.9])


def test_predict_by_named_fields(client: TestClient, published: Published) -> None:
    answer = client.post("/predict/tiny", json={"amount": 0.25, "features": "a field of the event"})
    assert answer.status_code == 200
    assert answer.json()["scores"] == [0.25]
    assert answer.json()["inputs"]["amount"] == 0.25
    assert published[0][0] == b"k1"


def test_predict_asks_the_version_of_the_events_key(
    client: TestClient, link: FakeLink, published: Published
) -> None:
    link.canary_keys = {b"k1"}
    assert client.post("/predict/tiny", json={"amount": 0.25}).json()["model_version"] == "2"
    assert (published[0][1]["model_version"], published[0][1]["variant"]) == ("2", "canary")
    by_features = client.post("/predict/tiny", json={"features": [0.2, 0.4, 0.9]})
    assert by_features.json()["model_version"] == "1", "no key, so the champion"
    infer = client.post("/v2/models/tiny/infer", json=infer_body())
    assert infer.json()["model_version"] == "1"


def test_predict_says_what_was_expected(client: TestClient, published: Published) -> None:
    answer = client.post("/predict/tiny", json={"features": [1, 2, 3, 4]})
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "expected 3 features, got 4",
        "field": "features",
        "expected": "3 features",
        "got": "4",
    }
    answer = client.post("/predict/tiny", json={"amount": -1})
    assert (answer.status_code, answer.json()["field"]) == (400, "amount")
    assert not published


def test_model_that_is_away(client: TestClient, link: FakeLink, published: Published) -> None:
    link.is_away = True
    for path, body in (("/v2/models/tiny/infer", infer_body()), ("/predict/tiny", {"amount": 1})):
        answer = client.post(path, json=body)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
    assert not published


def test_more_than_the_limit_is_told_to_come_back(client: TestClient, link: FakeLink) -> None:
    """A request that waits holds its place; one beyond the limit is refused at once."""
    release, waiting = threading.Event(), threading.Barrier(3)

    async def slow(route: Route, matrix: Matrix) -> Scored:
        await asyncio.to_thread(waiting.wait, 10)
        await asyncio.to_thread(release.wait, 10)
        return Scored(route, mean_score(matrix))

    link.score = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(client.post, "/predict/tiny", json={"amount": 1}) for _ in range(2)]
        waiting.wait(10)
        refused = client.post("/predict/tiny", json={"amount": 1})
        assert client.get("/v2/health/live").status_code == 200, "probes are not requests"
        release.set()
        assert [call.result(10).status_code for call in held] == [200, 200]
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    link.score = FakeLink().score  # type: ignore[method-assign]
    assert client.post("/predict/tiny", json={"amount": 1}).status_code == 200
