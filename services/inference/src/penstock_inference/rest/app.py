"""The gateway's HTTP interface: Open Inference Protocol v2 and ``/predict/P``.

Built over one `PipelineService` per pipeline, so that it can be tested without a model server. A
route is declared in one place: path, label of its metrics, body, answer and function.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import Any, Final, Protocol, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from fastapi import FastAPI, Request
from fastapi.responses import Response
from penstock_schemas.errors import RetryableError
from penstock_streaming.timing import Deadline

from penstock_inference.metrics import InferenceFamilies
from penstock_inference.model_server import Matrix
from penstock_inference.predictions import (
    AnsweredBy,
    EventVector,
    Signature,
    Vectors,
    decisions,
    prediction_columns,
)
from penstock_inference.rest import protocol
from penstock_inference.rest.errors import MEANINGS, UnknownModelError, add_errors, shown
from penstock_inference.rest.limits import (
    HEADER_TIMEOUT,
    Guard,
    RowBudget,
    counted_as,
    deadline_of,
    read_body,
    until,
)
from penstock_inference.rest.protocol import HEADER_LENGTH
from penstock_inference.scoring import Scored
from penstock_inference.settings import GatewaySettings
from penstock_inference.traffic_split import Route

Json = dict[str, Any]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
JSON_TYPE: Final = "application/json"


class Publisher(Protocol):
    """Takes predictions that were answered; `PredictionPublisher` in service."""

    def publish(self, predictions: pa.RecordBatch, keys: Sequence[bytes | None]) -> None:
        """Queue predictions, or drop and count them."""


class Scorer(Protocol):
    """What the gateway needs of a pipeline's models: `RestScorer`; tests give their own."""

    @property
    def ready(self) -> bool:
        """Whether a model answers."""

    @property
    def versions(self) -> list[str]:
        """Versions that may be asked for by number."""

    async def route(self, version: str | None) -> Route | None:
        """Return the champion, or a version by number; None for a version that is not known."""

    async def score(self, route: Route, matrix: Matrix) -> Scored:
        """Return the scores of a matrix by one version."""

    async def answer(self, key: bytes | None, matrix: Matrix) -> Scored:
        """Return the scores of a key's event by the version that the key meets in the stream."""


@dataclass(frozen=True, slots=True)
class PipelineService:
    """One pipeline behind REST: its vectors, its scores, and where its predictions go.

    Parameters
    ----------
    width
        Number of features.
    vector
        Makes the vector of an event; blocking, runs on ``executor``.
    """

    signature: Signature
    width: int
    scorer: Scorer
    publisher: Publisher
    vector: Callable[[bytes], EventVector]
    executor: Executor | None = None

    async def event_vector(self, body: bytes) -> EventVector:
        """Return the vector of an event given by its named fields."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, self.vector, body)

    def publish(
        self, key: str | None, ids: list[str], time_ms: int, scored: Scored, m: Matrix
    ) -> None:
        """Queue what was answered for the topic of REST predictions."""
        n = len(ids)
        # Not by way of datetime64, whose smallest number is no time at all.
        times = pa.array(np.full(n, time_ms, dtype=np.int64)).cast(pa.timestamp("ms"))
        origin = pa.nulls(
            n,
            pa.struct({"topic": pa.string(), "partition": pa.int32(), "offset": pa.int64()}),
        )
        vectors = Vectors(pa.array(ids, pa.string()), times, m, origin)
        by = AnsweredBy((scored.route,))
        self.publisher.publish(
            prediction_columns(vectors, scored.scores, by, self.signature, now_ms()),
            [None if key is None else key.encode()] * n,
        )


Services = Mapping[str, PipelineService]
"""By pipeline name."""


def now_ms() -> int:
    """Return milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


def service_of(services: Services, name: str) -> PipelineService:
    """Return the service of a pipeline.

    Raises
    ------
    UnknownModelError
        There is none.
    """
    service = services.get(name)
    if service is None:
        raise UnknownModelError(
            f"unknown model {shown(name)}; known are {', '.join(sorted(services))}"
        )
    return service


async def route_of(service: PipelineService, version: str | None) -> Route:
    """Return the champion's route, or that of a version asked for by number.

    Raises
    ------
    UnknownModelError
        The version is not known.
    ModelUnavailable
        Nothing serves, or the version is not loaded.
    """
    route = await service.scorer.route(version)
    if route is None:
        known = ", ".join(service.scorer.versions) or "none"
        raise UnknownModelError(f"unknown version {shown(version or '')}; known are {known}")
    return route


def create_app(
    services: Services, settings: GatewaySettings, families: InferenceFamilies
) -> FastAPI:
    """Return the HTTP application.

    Parameters
    ----------
    services
        By pipeline name.
    """
    app = FastAPI(
        title="Penstock gateway",
        version=package_version("penstock-inference"),
        # A redirect would repeat the Host header of whoever asks.
        redirect_slashes=False,
    )
    add_errors(app, settings.retry_after_s)
    app.add_middleware(Guard, settings=settings, families=families)
    _add_health(app, services)
    _add_models(app, services, settings)
    _add_index(app, services, settings)
    budget = RowBudget(max(settings.max_in_flight_rows, settings.max_request_rows))
    _add_infer(app, services, settings, budget)
    _add_predict(app, services, settings, budget)
    _describe(app)
    return app


# What clients ask about the gateway and its models.


def _add_health(app: FastAPI, services: Services) -> None:
    @app.get("/v2/health/live", **_documented("health", "Whether the gateway runs"))
    async def live() -> Response:
        return Response(status_code=200)

    @app.get("/v2/health/ready", **_documented("health", "Whether every model answers", 503))
    async def ready() -> Response:
        is_ready = all(service.scorer.ready for service in services.values())
        return Response(status_code=200 if is_ready else 503)

    @app.get("/v2", **_documented("health", "Name, version and extensions"))
    async def server_metadata() -> Json:
        return protocol.server_metadata(app.version)


def _add_models(app: FastAPI, services: Services, settings: GatewaySettings) -> None:
    async def metadata(name: str, version: str | None) -> Json:
        service = service_of(services, name)
        route = await route_of(service, version)
        versions = service.scorer.versions if version is None else [version]
        return protocol.metadata(name, route, versions)

    async def ready(name: str, version: str | None) -> Response:
        service = service_of(services, name)
        if version is not None:
            await route_of(service, version)
        return Response(status_code=200 if service.scorer.ready else 503)

    async def config(name: str, version: str | None) -> Json:
        route = await route_of(service_of(services, name), version)
        return protocol.config(name, route, settings.max_request_rows)

    _add_both(app, "", "Inputs and outputs", metadata)
    _add_both(app, "/ready", "Readiness", ready)
    _add_both(app, "/config", "Configuration", config)


def _add_both(
    app: FastAPI, path: str, summary: str, tell: Callable[[str, str | None], Awaitable[Any]]
) -> None:
    """Add a question about a model, and the same about one of its versions.

    Two routes: in one, the version would be a query parameter too.
    """

    @app.get(
        f"/v2/models/{{name}}{path}",
        name=f"model{path.replace('/', '_')}",
        response_model=None,
        **_documented("models", f"{summary} of a model", 404, 503),
    )
    async def of_model(name: str) -> Any:
        return await tell(name, None)

    @app.get(
        f"/v2/models/{{name}}/versions/{{version}}{path}",
        name=f"version{path.replace('/', '_')}",
        response_model=None,
        **_documented("models", f"{summary} of a version", 404, 503),
    )
    async def of_version(name: str, version: str) -> Any:
        return await tell(name, version)


def _add_index(app: FastAPI, services: Services, settings: GatewaySettings) -> None:
    """Add the index of models, which clients ask for by POST."""

    async def trouble(service: PipelineService, version: str) -> str:
        try:
            await route_of(service, version)
        except (RetryableError, UnknownModelError) as exc:
            return str(exc)
        return "" if service.scorer.ready else "the model server does not answer"

    @_post(
        app,
        "/v2/repository/index",
        "other",
        _content(protocol.IndexBody),
        _content(list[protocol.IndexEntry]),
        summary="Every version of every model",
        is_required=False,
    )
    async def index(request: Request) -> Response:
        deadline = deadline_of(request, settings)
        asked = protocol.parse_index(await read_body(request, settings))
        async with until(deadline):
            entries = [
                protocol.index_entry(name, version, await trouble(service, version))
                for name, service in sorted(services.items())
                for version in service.scorer.versions
            ]
        told = [e for e in entries if not asked.ready or not e.reason]
        return Response(msgspec.json.encode(told), media_type=JSON_TYPE)


# Scores and predictions.


def _add_infer(
    app: FastAPI, services: Services, settings: GatewaySettings, budget: RowBudget
) -> None:
    async def inferred(request: Request, name: str, version: str | None) -> Response:
        service = service_of(services, name)
        deadline = deadline_of(request, settings)
        body = await read_body(request, settings)
        json_length = request.headers.get(HEADER_LENGTH)
        asked = protocol.parse(body, json_length, service.width, settings.max_request_rows)
        if asked.timeout_s is not None and asked.timeout_s < deadline.remaining_s:
            deadline = Deadline(asked.timeout_s)
        rows = len(asked.matrix)
        with budget.held(rows):
            async with until(deadline):
                route = await route_of(service, version)
                scored = await service.scorer.score(route, asked.matrix)
        request_id = asked.id or uuid.uuid4().hex
        ids = [request_id] if rows == 1 else [f"{request_id}-{row}" for row in range(rows)]
        service.publish(None, ids, now_ms(), scored, asked.matrix)
        content, headers = protocol.answer(name, route, asked, scored.scores)
        return Response(content, headers=headers)

    def route(path: str) -> Callable[[Endpoint], Endpoint]:
        return _post(
            app,
            path,
            "infer",
            _content(protocol.InferBody) | _BYTES,
            _content(protocol.InferAnswer) | _BYTES,
            summary="Scores of a tensor",
            headers=(_JSON_LENGTH,),
        )

    @route("/v2/models/{name}/infer")
    async def infer(request: Request, name: str) -> Response:
        return await inferred(request, name, None)

    @route("/v2/models/{name}/versions/{version}/infer")
    async def infer_version(request: Request, name: str, version: str) -> Response:
        return await inferred(request, name, version)


def _add_predict(
    app: FastAPI, services: Services, settings: GatewaySettings, budget: RowBudget
) -> None:
    async def event_of(service: PipelineService, body: bytes) -> EventVector:
        given = protocol.parse_features(body, service.width)
        if given is None:
            return await service.event_vector(body)
        return EventVector(
            event_id=given.event_id or uuid.uuid4().hex,
            key="",
            time_ms=now_ms(),
            inputs={"features": given.features},
            matrix=given.matrix,
        )

    @_post(
        app,
        "/predict/{name}",
        "predict",
        {JSON_TYPE: {"schema": _EVENT}},
        _content(protocol.Prediction),
        summary="Prediction for one event",
    )
    async def predict(request: Request, name: str) -> Response:
        service = service_of(services, name)
        deadline = deadline_of(request, settings)
        body = await read_body(request, settings)
        with budget.held(1):
            async with until(deadline):
                event = await event_of(service, body)
                key = event.key.encode() if event.key else None
                scored = await service.scorer.answer(key, event.matrix)
        ids = [event.event_id]
        service.publish(event.key or None, ids, event.time_ms, scored, event.matrix)
        threshold = service.signature.threshold
        prediction = protocol.Prediction(
            event_id=event.event_id,
            inputs=event.inputs,
            scores=scored.scores[0].tolist(),
            decision=bool(decisions(scored.scores, threshold)[0]),
            threshold=threshold,
            model_version=scored.route.version.version,
        )
        return Response(msgspec.json.encode(prediction), media_type=JSON_TYPE)


# The OpenAPI document: bodies are generated from the protocol's types.

_BODIES: Final = (
    protocol.InferBody,
    protocol.InferAnswer,
    protocol.FeaturesForm,
    protocol.Prediction,
    protocol.IndexBody,
    list[protocol.IndexEntry],
    protocol.ErrorBody,
)
_SCHEMAS, _COMPONENTS = msgspec.json.schema_components(
    _BODIES, ref_template="#/components/schemas/{name}"
)


def _content(body: Any) -> Json:
    """Return the content of a JSON body of one of `_BODIES`."""
    return {JSON_TYPE: {"schema": _SCHEMAS[_BODIES.index(body)]}}


_BYTES: Final[Json] = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
}
_EVENT: Final[Json] = {
    "anyOf": [
        _content(protocol.FeaturesForm)[JSON_TYPE]["schema"],
        {
            "type": "object",
            "description": "The event's named fields, as the pipeline's event.avsc has them",
        },
    ]
}
_WORK: Final = (400, 404, 408, 413, 415, 429, 500, 503, 504)
_DEADLINE: Final[Json] = {
    "name": HEADER_TIMEOUT,
    "in": "header",
    "required": False,
    "description": "How long the caller waits, milliseconds; capped by the gateway",
    "schema": {"type": "integer", "minimum": 1},
}
_JSON_LENGTH: Final[Json] = {
    "name": HEADER_LENGTH,
    "in": "header",
    "required": False,
    "description": "How much of the body is JSON, bytes; the tensor's bytes follow it",
    "schema": {"type": "integer", "minimum": 0},
}


def _post(
    app: FastAPI,
    path: str,
    label: str,
    body: Json,
    answer: Json,
    *,
    summary: str,
    headers: tuple[Json, ...] = (),
    is_required: bool = True,
) -> Callable[[Endpoint], Endpoint]:
    """Return the decorator that adds a route which reads a body and has a deadline.

    Parameters
    ----------
    label
        Of the route in the metrics of requests.
    body, answer
        By media type.
    """
    extra = {
        "requestBody": {"required": is_required, "content": body},
        "parameters": [_DEADLINE, *headers],
    }
    documented = _documented("inference", summary, *_WORK, content=answer)
    register = app.post(path, openapi_extra=extra, **documented)
    return lambda endpoint: register(counted_as(label, endpoint))


def _documented(tag: str, summary: str, *statuses: int, content: Json | None = None) -> Json:
    """Return an operation's part of its route.

    Parameters
    ----------
    statuses
        Beside 200.
    content
        Of a 200, by media type.
    """
    error = _content(protocol.ErrorBody)
    responses: dict[int, Json] = {
        status: {"description": MEANINGS[status], "content": error} for status in statuses
    }
    responses[200] = {"description": MEANINGS[200]} | ({"content": content} if content else {})
    return {"tags": [tag], "summary": summary, "responses": responses}


def _describe(app: FastAPI) -> None:
    """Have an application's document leave out what its framework assumes and is not so.

    Path parameters are text of any kind, so no request fails the framework's own validation.
    """
    written = app.openapi

    def openapi() -> Json:
        document = written()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        document["components"] = {"schemas": _COMPONENTS}
        return document

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI documents
