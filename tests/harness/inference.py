"""Inference without Ray: fake model server and gateway, and a gateway on a real server.

`FakeScorer` answers as a model server for the handler's unit tests, `gateway` is the REST
application over a model that is not there, `gateway_on_triton` puts it before a real Triton behind
a proxy, so that the model server can be away for it alone.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tritonclient.grpc as triton
from fastapi import FastAPI
from harness.faults import OutageProxy
from harness.models import MAX_ROWS, MODEL_WIDTH, tiny_onnx
from harness.waiting import eventually
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
from penstock_inference.predictions import EventVector, Signature
from penstock_inference.rest.app import PipelineService, create_app
from penstock_inference.rest.batching import RestScorer
from penstock_inference.scoring import DataPlane, Scored, ServingState
from penstock_inference.settings import GatewaySettings, TritonSettings
from penstock_inference.traffic_split import Route
from penstock_inference.triton import TritonServer
from penstock_schemas.codec import ColumnarEncoder, decode_one, encode_one
from penstock_schemas.errors import ModelUnavailable, PenstockError, RuleViolation
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_schemas.schema_files import schema_text
from penstock_streaming.handler import MessageBatch
from penstock_training.deployment import unload
from penstock_training.publish import Deployment, find_template, publish
from prometheus_client import CollectorRegistry


class MemoryReports:
    """Where replicas report themselves, without Ray; it can be away."""

    def __init__(self) -> None:
        self.reports: dict[str, bytes] = {}
        self.is_away = False

    def put_report(self, key: str, report: bytes) -> None:
        if self.is_away:
            raise ConnectionError("no head")
        self.reports[key] = report

    def all_reports(self) -> dict[str, bytes]:
        return dict(self.reports)

    def delete_report(self, key: str) -> None:
        del self.reports[key]


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


class FakeScorer(ModelServer):
    """A model server that answers with a function, or one per model; every call is recorded."""

    def __init__(self) -> None:
        self.respond: Respond = mean_score
        self.by_model: dict[str, Respond] = {}
        self.calls: list[Matrix] = []
        self.asked: list[tuple[str, float]] = []

    def start_inference(
        self, model: ServedModel, inputs: Tensors, timeout_s: float
    ) -> PendingScores:
        matrix = inputs[INPUT]
        chunks = []
        for at in range(0, len(matrix), model.max_rows):
            chunk: Future[Matrix] = Future()
            try:
                self.asked.append((model.name, timeout_s))
                chunk.set_result(self._answer(model.name, matrix[at : at + model.max_rows]))
            except PenstockError as exc:
                chunk.set_exception(exc)
            chunks.append(chunk)
        return PendingScores(model, chunks)

    def model_ready(self, name: str) -> bool:
        return True

    def load_model(self, name: str) -> None:
        """Load nothing: all is there."""

    def reload_model(self, name: str) -> None:
        """Do nothing: all is there."""

    def model_metadata(self, name: str) -> ServedModel:
        return ServedModel(name, WIDTH, max_rows=16)

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

    def publish(self, predictions: pa.RecordBatch, keys: Sequence[bytes | None]) -> None:
        self._encoder.encode(predictions)
        # An event may have a time that Python has none for.
        shown = predictions.drop_columns(["event_time", "predicted_at"])
        self.extend(zip(keys, shown.to_pylist(), strict=True))


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


PIPELINE = "tiny"
READY_S = 30.0


def expected_scores(matrix: Matrix) -> Matrix:
    """Return what the tiny model answers."""
    return np.asarray(1.0 / (1.0 + np.exp(5.0 - matrix[:, :1])), dtype=np.float32)


@dataclass(frozen=True)
class GatewayOnTriton:
    """A gateway and what lies behind it.

    Parameters
    ----------
    make_app
        Returns the application; takes `GatewaySettings`' fields.
    proxy
        Between the gateway and the model server.
    served_as
        The model's name there.
    """

    make_app: Callable[..., FastAPI]
    scorer: RestScorer
    manager: ModelManager
    proxy: OutageProxy
    server: triton.InferenceServerClient
    served_as: str

    def counts(self) -> tuple[int, int]:
        """Return the model server's own count of calls and of rows."""
        (stats,) = self.server.get_inference_statistics(self.served_as).model_stats
        return int(stats.inference_stats.success.count), int(stats.inference_count)

    def settled_counts(self) -> tuple[int, int]:
        """Return the counts once no call that an earlier test gave up is still to be counted."""
        seen = [self.counts()]

        def is_settled() -> bool:
            seen.append(self.counts())
            return seen[-1] == seen[-2]

        eventually(is_settled, 10.0, "no call on its way")
        return seen[-1]

    def ask(self, rows: list[Matrix]) -> list[Matrix]:
        """Score matrices, all at once."""

        async def run() -> list[Matrix]:
            scored = await asyncio.gather(*(self.scorer.answer(None, row) for row in rows))
            return [each.scores for each in scored]

        return asyncio.run(run())


@contextmanager
def gateway_on_triton(
    triton_grpc: str, models_dir: Path, timeout_s: float
) -> Iterator[GatewayOnTriton]:
    """Publish a model and put a gateway before it.

    Parameters
    ----------
    timeout_s
        The pipeline's deadline of a call, seconds.
    """
    name = f"gateway{uuid.uuid4().hex[:8]}__1"
    template = find_template(Path(__file__))
    publish(models_dir, Deployment(name, MODEL_WIDTH, MAX_ROWS, tiny_onnx()), template)
    version = ModelVersion(PIPELINE, "1", name, "champion", 100, "sha256:0", "r", "serving")
    state = RoutingState(PIPELINE, 1, time.time_ns() // 1_000_000, "test", (version,))

    def follow(stop: Any, on_state: Callable[[RoutingState], None]) -> None:
        on_state(state)
        stop.wait()

    families = InferenceFamilies(CollectorRegistry())
    metrics = InferenceMetrics(families, PIPELINE)
    with ExitStack() as stack:
        direct = triton.InferenceServerClient(triton_grpc)
        stack.callback(direct.close)
        stack.callback(shutil.rmtree, models_dir / name, ignore_errors=True)
        stack.callback(unload, triton_grpc, name)
        proxy = stack.enter_context(OutageProxy(triton_grpc))
        server = TritonServer(TritonSettings(grpc_url=proxy.address))
        stack.callback(server.close)
        serving = ServingState(PIPELINE, metrics)
        manager = ModelManager(follow, server, serving, width=MODEL_WIDTH, max_rows=MAX_ROWS)
        manager.start_threads()
        stack.callback(manager.stop_threads)
        scorer = RestScorer(DataPlane(server, serving, timeout_s), manager)

        def make_app(**settings: Any) -> FastAPI:
            service = PipelineService(
                Signature(PIPELINE, 0.5, "gw"), MODEL_WIDTH, scorer=scorer, publisher=Published(),
                vector=_no_events,
            )  # fmt: skip
            return create_app({PIPELINE: service}, GatewaySettings(**settings), families)

        eventually(lambda: manager.ready, READY_S)
        yield GatewayOnTriton(make_app, scorer, manager, proxy, direct, name)


def _no_events(body: bytes) -> Any:
    raise NotImplementedError
