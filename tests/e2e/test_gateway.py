"""A stock Open Inference Protocol client works against the gateway unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from harness.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.fixture
def client(stack: Stack) -> Iterator[Any]:
    import tritonclient.http

    found = tritonclient.http.InferenceServerClient(
        stack.gateway_url.removeprefix("http://"), connection_timeout=10, network_timeout=10
    )
    yield found
    found.close()


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
