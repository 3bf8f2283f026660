"""The stock Open Inference Protocol client, sync and asyncio, against the gateway unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as stock
import tritonclient.http.aio as stock_aio
from harness.clients import Caller, serving
from harness.inference import WIDTH, FakeLink, Published, gateway
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def shared_link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def link(shared_link: FakeLink) -> Iterator[FakeLink]:
    yield shared_link
    shared_link.is_away = False


@pytest.fixture(scope="module")
def caller(shared_link: FakeLink) -> Iterator[Caller]:
    with serving(gateway(shared_link, Published(), max_in_flight=64)) as made:
        yield made


@pytest.fixture
def client(caller: Caller) -> Iterator[Any]:
    made = stock.InferenceServerClient(caller.address, concurrency=4, network_timeout=10.0)
    yield made
    made.close()


def tensor(values: np.ndarray[Any, Any], *, binary: bool = True) -> Any:
    made = stock.InferInput("features", list(values.shape), "FP32")
    made.set_data_from_numpy(values, binary_data=binary)
    return made


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("outputs", ["none", "json", "binary"])
@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
def test_infers_in_every_encoding(
    client: Any, rng: np.random.Generator, binary_in: bool, outputs: str, packing: str | None
) -> None:
    values = rng.random((5, WIDTH), dtype=np.float32)
    wanted = [stock.InferRequestedOutput("scores", binary_data=outputs == "binary")]
    answer = client.infer(
        "tiny",
        [tensor(values, binary=binary_in)],
        model_version="1",
        outputs=None if outputs == "none" else wanted,
        request_id="r7",
        timeout=5_000_000,
        parameters={"of_the_caller": "ignored"},
        request_compression_algorithm=packing,
        response_compression_algorithm=packing,
    )
    assert answer.get_response()["id"] == "r7"
    assert answer.as_numpy("scores")[:, 0].tolist() == pytest.approx(values.mean(axis=1))


def test_asyncio_client_infers(caller: Caller, rng: np.random.Generator) -> None:
    rows = [rng.random((1, WIDTH), dtype=np.float32) for _ in range(8)]

    async def ask() -> list[Any]:
        async with stock_aio.InferenceServerClient(caller.address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("tiny"))["name"] == "tiny"
            return list(
                await asyncio.gather(*(client.infer("tiny", [tensor(row)]) for row in rows))
            )

    answers = asyncio.run(ask())
    found = [float(answer.as_numpy("scores")[0, 0]) for answer in answers]
    assert found == pytest.approx([float(row.mean()) for row in rows])


def test_async_infer_of_the_sync_client(client: Any) -> None:
    calls = [client.async_infer("tiny", [tensor(np.full((1, WIDTH), i, "f4"))]) for i in range(4)]
    assert [float(c.get_result(timeout=10).as_numpy("scores")[0, 0]) for c in calls] == [0, 1, 2, 3]


def test_what_the_client_asks_about_models(client: Any, link: FakeLink) -> None:
    assert client.is_server_live()
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "9")
    config = client.get_model_config("tiny")
    assert (config["name"], config["max_batch_size"]) == ("tiny", 8)
    assert config["input"] == [{"name": "features", "data_type": "TYPE_FP32", "dims": [WIDTH]}]
    assert client.get_model_config("tiny", "1") == config
    entry = {"name": "tiny", "version": "1", "state": "READY", "reason": ""}
    assert client.get_model_repository_index() == [entry]
    link.is_away = True
    assert client.get_model_repository_index()[0]["state"] == "UNAVAILABLE"


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_inference_statistics("tiny"),
        lambda client: client.get_trace_settings(),
        lambda client: client.get_log_settings(),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.get_cuda_shared_memory_status(),
        lambda client: client.register_system_shared_memory("r", "/r", 64),
        lambda client: client.load_model("tiny"),
        lambda client: client.unload_model("tiny"),
        lambda client: client.get_model_config("nope"),
    ],
)
def test_what_is_not_here_is_said_in_the_protocols_words(client: Any, ask: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ask(client)
    assert caught.value.status() == "404"
    assert caught.value.message()


def test_errors_reach_the_clients_user(client: Any, link: FakeLink) -> None:
    wide = tensor(np.zeros((1, WIDTH + 1), "f4"))
    with pytest.raises(InferenceServerException, match="expected 3 features, got 4") as caught:
        client.infer("tiny", [wide])
    assert caught.value.status() == "400"
    ranked = [stock.InferRequestedOutput("scores", class_count=2)]
    with pytest.raises(InferenceServerException, match="not supported here"):
        client.infer("tiny", [tensor(np.zeros((1, WIDTH), "f4"))], outputs=ranked)
    shared = stock.InferInput("features", [1, WIDTH], "FP32")
    shared.set_shared_memory("region", 12)
    with pytest.raises(InferenceServerException, match="not supported here"):
        client.infer("tiny", [shared])
    link.is_away = True
    with pytest.raises(InferenceServerException, match="does not answer") as caught:
        client.infer("tiny", [tensor(np.zeros((1, WIDTH), "f4"))])
    assert caught.value.status() == "503"
