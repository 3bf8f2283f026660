"""The gateway of a running stack: the stock client, /predict, and what Serve's proxy passes on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from harness.clients import Caller, well_said
from harness.stack import Stack
from harness.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

TIMEOUT_S = 30.0


@pytest.fixture
def client(stack: Stack) -> Iterator[Any]:
    import tritonclient.http

    made = tritonclient.http.InferenceServerClient(
        stack.gateway_url.removeprefix("http://"), connection_timeout=10, network_timeout=10
    )
    yield made
    made.close()


@pytest.fixture
def width(client: Any) -> int:
    (tensor,) = client.get_model_metadata("fraud")["inputs"]
    return int(tensor["shape"][1])


def event(number: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "event_id": f"rest-{number}",
        "account_id": f"rest-account-{number}",
        "event_time": time.time_ns() // 1_000_000,
        "amount": 12.5,
        "currency": "EUR",
        "merchant_id": "m-1",
        "merchant_category": "grocery",
        "country": "DE",
        "channel": "chip",
        "card_present": True,
        "device_age_days": None,
    }
    return {**fields, **changes}


def predict(stack: Stack, body: Any, pipeline: str = "fraud") -> requests.Response:
    return requests.post(f"{stack.gateway_url}/predict/{pipeline}", json=body, timeout=TIMEOUT_S)


def test_stock_client_gets_health_metadata_and_scores(
    client: Any, feature_names: list[str], rng: np.random.Generator
) -> None:
    import tritonclient.http

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("fraud")
    assert client.get_server_metadata()["name"]
    metadata = client.get_model_metadata("fraud")
    assert [(i["name"], i["datatype"], i["shape"]) for i in metadata["inputs"]] == [
        ("features", "FP32", [-1, len(feature_names)])
    ]
    values = rng.random((5, len(feature_names)), dtype=np.float32)
    tensor = tritonclient.http.InferInput("features", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, binary_data=False)
    output = tritonclient.http.InferRequestedOutput("scores", binary_data=False)
    scores = client.infer("fraud", [tensor], outputs=[output]).as_numpy("scores")
    assert scores.shape[0] == len(values)
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_stock_client_finds_the_server_and_the_model(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("fraud")
    metadata = client.get_model_metadata("fraud")
    (number,) = metadata["versions"][-1:]
    assert client.is_model_ready("fraud", number)
    assert client.get_model_metadata("fraud", number)["versions"] == [number]
    assert client.get_server_metadata()["name"] == "penstock"


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_stock_client_infers_in_every_encoding(
    client: Any, width: int, rng: np.random.Generator, binary_in: bool, binary_out: bool
) -> None:
    import tritonclient.http

    values = rng.random((7, width), dtype=np.float32)
    tensor = tritonclient.http.InferInput("features", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, binary_data=binary_in)
    output = tritonclient.http.InferRequestedOutput("scores", binary_data=binary_out)
    answer = client.infer("fraud", [tensor], outputs=[output], request_id="abc")
    scores = answer.as_numpy("scores")
    assert answer.get_response()["id"] == "abc"
    assert scores.shape == (7, 1)
    alone = [float(_infer_row(client, row)) for row in values]
    assert scores[:, 0].tolist() == pytest.approx(alone, abs=1e-6)


def _infer_row(client: Any, row: np.ndarray[Any, Any]) -> float:
    import tritonclient.http

    tensor = tritonclient.http.InferInput("features", [1, len(row)], "FP32")
    tensor.set_data_from_numpy(row.reshape(1, -1))
    return float(client.infer("fraud", [tensor]).as_numpy("scores")[0, 0])


def test_predict_by_features_is_infer(
    stack: Stack, client: Any, width: int, rng: np.random.Generator
) -> None:
    row = rng.random(width, dtype=np.float32)
    answer = predict(stack, {"features": row.tolist()})
    assert answer.status_code == 200
    found = answer.json()
    assert set(found) == {
        "event_id", "inputs", "scores", "decision", "threshold", "model_version",
    }  # fmt: skip
    assert found["scores"][0] == pytest.approx(_infer_row(client, row), abs=1e-6)
    assert found["decision"] == (found["scores"][0] >= found["threshold"])
    assert found["inputs"] == {"features": row.tolist()}


def test_predict_by_named_fields(stack: Stack) -> None:
    answer = predict(stack, event(1))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["event_id"] == "rest-1"
    assert found["inputs"]["amount"] == 12.5
    assert 0.0 <= found["scores"][0] <= 1.0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (event(2, amount=-1), "amount"),
        (event(3, amount="12"), "amount"),
        (event(4, channel="pigeon"), "channel"),
        ({k: v for k, v in event(5).items() if k != "account_id"}, "account_id"),
        ({"features": [1.0]}, "features"),
        ([], None),
    ],
)
def test_predict_names_what_is_wrong(stack: Stack, body: Any, field: str | None) -> None:
    answer = predict(stack, body)
    assert answer.status_code == 400
    found = answer.json()
    assert set(found) == {"error", "field", "expected", "got"}
    assert found["field"] == field
    assert found["expected"]


def test_unknown_pipeline_is_404(stack: Stack) -> None:
    assert predict(stack, event(6), "nobody").status_code == 404


def test_wrong_number_of_features_says_both(stack: Stack, width: int) -> None:
    answer = predict(stack, {"features": [0.0] * (width + 1)})
    assert answer.json()["error"] == f"expected {width} features, got {width + 1}"


@pytest.fixture
def caller(stack: Stack) -> Caller:
    return Caller(int(stack.gateway_url.rpartition(":")[2]))


def test_asyncio_client_shares_calls_with_others(
    caller: Caller, width: int, rng: np.random.Generator
) -> None:
    import tritonclient.http as stock
    import tritonclient.http.aio as stock_aio

    rows = rng.random((32, width), dtype=np.float32)

    async def ask() -> list[float]:
        async with stock_aio.InferenceServerClient(caller.address) as client:
            tensors = [stock.InferInput("features", [1, width], "FP32") for _ in rows]
            for tensor, row in zip(tensors, rows, strict=True):
                tensor.set_data_from_numpy(row.reshape(1, -1))
            answers = await asyncio.gather(*(client.infer("fraud", [t]) for t in tensors))
            together = stock.InferInput("features", list(rows.shape), "FP32")
            together.set_data_from_numpy(rows)
            expected = (await client.infer("fraud", [together])).as_numpy("scores")[:, 0]
            found = [float(answer.as_numpy("scores")[0, 0]) for answer in answers]
            assert found == pytest.approx(expected.tolist(), abs=1e-6)
            return found

    assert len(set(asyncio.run(ask()))) > 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/..%2f..%2fetc/infer", 404),
        ("/v2/models/fraud%00/infer", 404),
        ("/v2/repository/models/fraud/load", 404),
        ("/v2/models/fraud/infer", 400),
        ("/predict/fraud", 400),
    ],
)
def test_odd_requests_are_answered_in_the_protocols_words(
    caller: Caller, path: str, status: int
) -> None:
    answer = caller.post(path, b"{}", "Content-Type: application/json")
    assert answer.status == status
    well_said(answer)


@pytest.mark.parametrize("version", ["-1", "01", "latest"])
def test_unknown_version_is_404(caller: Caller, width: int, version: str) -> None:
    row = {"name": "features", "datatype": "FP32", "shape": [1, width], "data": [0.0] * width}
    body = json.dumps({"inputs": [row]}).encode()
    answer = caller.post(f"/v2/models/fraud/versions/{version}/infer", body)
    assert answer.status == 404
    well_said(answer)


def test_two_gigabytes_claimed_are_refused_unread(caller: Caller) -> None:
    head = b"POST /predict/fraud HTTP/1.1\r\nHost: test\r\nContent-Length: 2147483648\r\n\r\n"
    answer = caller.raw(head + b"0123456789")
    assert answer.status == 413
    well_said(answer)


def test_callers_that_hang_up_leave_their_places(
    caller: Caller, width: int, rng: np.random.Generator
) -> None:
    """More of them than requests are let in at once."""
    body = json.dumps({"features": rng.random(width).tolist()}).encode()
    head = f"POST /predict/fraud HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
    for _ in range(150):
        with caller.connect() as connection:
            connection.sendall(head.encode() + body)
    eventually(lambda: caller.post("/predict/fraud", body).status == 200, 10.0)
    assert [caller.post("/predict/fraud", body).status for _ in range(20)] == [200] * 20
