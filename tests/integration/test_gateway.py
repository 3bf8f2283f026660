"""The gateway of a running stack: the stock client, /predict, and REST against the stream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from harness.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

TIMEOUT_S = 30.0


@pytest.fixture
def client(stack: Stack) -> Iterator[Any]:
    import tritonclient.http

    made = tritonclient.http.InferenceServerClient(
        stack.gateway_url.removeprefix("http://"), connection_timeout=30, network_timeout=30
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
