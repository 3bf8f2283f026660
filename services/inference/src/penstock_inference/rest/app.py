"""The gateway's HTTP interface: Open Inference Protocol v2 and ``/predict/P``.

Built over one `PipelineService` per pipeline, so that it can be tested without a model server.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
from fastapi import FastAPI, Request
from fastapi.responses import Response
from penstock_schemas.errors import RetryableError, SchemaError
from penstock_streaming.timing import Deadline

from penstock_inference.metrics import InferenceFamilies
from penstock_inference.pipeline import (
    AnsweredBy,
    EventVector,
    Signature,
    Vectors,
    decisions,
    prediction_columns,
)
from penstock_inference.rest import protocol
from penstock_inference.rest.errors import UnknownModelError, add_errors, shown
from penstock_inference.rest.limits import Guard, RowBudget, deadline_of, read_body, until
from penstock_inference.rest.openapi import INDEX, INFER, PREDICT, answers, describe, documented
from penstock_inference.rest.protocol import id_of, kind, parse_object, row_of_numbers
from penstock_inference.routing import Route
from penstock_inference.scoring import Scored, Scorer
from penstock_inference.settings import GatewaySettings
from penstock_inference.tensors import Matrix


class Publisher(Protocol):
    """Takes predictions that were answered; `RestPredictions` in service."""

    def publish(self, key: bytes | None, predictions: pa.RecordBatch) -> None:
        """Queue predictions, or drop and count them."""


@dataclass(frozen=True, slots=True)
class PipelineService:
    """One pipeline behind REST.

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
        self.publisher.publish(
            None if key is None else key.encode(),
            prediction_columns(
                vectors, scored.scores, AnsweredBy((scored.route,)), self.signature, now_ms()
            ),
        )


def now_ms() -> int:
    """Return milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


Services = Mapping[str, PipelineService]
"""By pipeline name."""


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


def add_health(app: FastAPI, services: Services) -> None:
    """Add what probes ask."""

    @app.get("/v2/health/live", **documented("health", "Whether the gateway runs", answers()))
    async def live() -> Response:
        return Response(status_code=200)

    @app.get(
        "/v2/health/ready", **documented("health", "Whether every model answers", answers(503))
    )
    async def ready() -> Response:
        is_ready = all(service.scorer.ready for service in services.values())
        return Response(status_code=200 if is_ready else 503)

    @app.get("/v2", **documented("health", "Name, version and extensions", answers()))
    async def server_metadata() -> dict[str, Any]:
        return protocol.server_metadata(app.version)


def add_models(app: FastAPI, services: Services, settings: GatewaySettings) -> None:
    """Add what clients ask about a model."""

    async def metadata(name: str, version: str | None) -> dict[str, Any]:
        service = service_of(services, name)
        route = await route_of(service, version)
        versions = service.scorer.versions if version is None else [version]
        return protocol.metadata(name, route, versions)

    async def ready(name: str, version: str | None) -> Response:
        service = service_of(services, name)
        if version is not None:
            await route_of(service, version)
        return Response(status_code=200 if service.scorer.ready else 503)

    async def config(name: str, version: str | None) -> dict[str, Any]:
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
    told = answers(404, 503)

    @app.get(
        f"/v2/models/{{name}}{path}",
        name=f"model{path.replace('/', '_')}",
        response_model=None,
        **documented("models", f"{summary} of a model", told),
    )
    async def of_model(name: str) -> Any:
        return await tell(name, None)

    @app.get(
        f"/v2/models/{{name}}/versions/{{version}}{path}",
        name=f"version{path.replace('/', '_')}",
        response_model=None,
        **documented("models", f"{summary} of a version", told),
    )
    async def of_version(name: str, version: str) -> Any:
        return await tell(name, version)


def add_index(app: FastAPI, services: Services, settings: GatewaySettings) -> None:
    """Add the index of models, which clients ask for by POST."""

    @app.post("/v2/repository/index", **INDEX)
    async def index(request: Request) -> list[dict[str, str]]:
        deadline = deadline_of(request, settings)
        fields = parse_object(await read_body(request, settings) or b"{}")
        only_ready = fields.get("ready", False)
        if not isinstance(only_ready, bool):
            raise SchemaError(
                "wrong type", field="ready", expected="a boolean", got=kind(only_ready)
            )
        async with until(deadline):
            entries = [
                protocol.index_entry(name, version, await _trouble(service, version))
                for name, service in sorted(services.items())
                for version in service.scorer.versions
            ]
        return [e for e in entries if not only_ready or not e["reason"]]


async def _trouble(service: PipelineService, version: str) -> str:
    try:
        await route_of(service, version)
    except (RetryableError, UnknownModelError) as exc:
        return str(exc)
    return "" if service.scorer.ready else "the model server does not answer"


FEATURES_FORM: Final = frozenset({"features", "event_id"})
"""Keys of a /predict body that gives the features themselves."""


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
    add_health(app, services)
    add_models(app, services, settings)
    add_index(app, services, settings)
    budget = RowBudget(max(settings.max_in_flight_rows, settings.max_request_rows))
    _add_infer(app, services, settings, budget)
    _add_predict(app, services, settings, budget)
    describe(app)
    return app


def _add_infer(
    app: FastAPI, services: Services, settings: GatewaySettings, budget: RowBudget
) -> None:
    async def inferred(request: Request, name: str, version: str | None) -> Response:
        service = service_of(services, name)
        deadline = deadline_of(request, settings)
        body = await read_body(request, settings)
        asked = protocol.parse(
            body,
            request.headers.get(protocol.HEADER_LENGTH),
            service.width,
            settings.max_request_rows,
        )
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

    @app.post("/v2/models/{name}/infer", **INFER)
    async def infer(request: Request, name: str) -> Response:
        return await inferred(request, name, None)

    @app.post("/v2/models/{name}/versions/{version}/infer", **INFER)
    async def infer_version(request: Request, name: str, version: str) -> Response:
        return await inferred(request, name, version)


def _add_predict(
    app: FastAPI, services: Services, settings: GatewaySettings, budget: RowBudget
) -> None:
    @app.post("/predict/{name}", **PREDICT)
    async def predict(request: Request, name: str) -> Response:
        service = service_of(services, name)
        deadline = deadline_of(request, settings)
        body = await read_body(request, settings)
        fields = parse_object(body)
        with budget.held(1):
            async with until(deadline):
                if "features" in fields and fields.keys() <= FEATURES_FORM:
                    event = _from_features(fields, service.width)
                else:
                    event = await service.event_vector(body)
                key = event.key.encode() if event.key else None
                scored = await service.scorer.answer(key, event.matrix)
        ids = [event.event_id]
        service.publish(event.key or None, ids, event.time_ms, scored, event.matrix)
        answer = _answer(event, scored, service.signature.threshold)
        return Response(json.dumps(answer), media_type="application/json")


def _answer(event: EventVector, scored: Scored, threshold: float) -> dict[str, Any]:
    return {
        "event_id": event.event_id,
        "inputs": event.inputs,
        "scores": scored.scores[0].tolist(),
        "decision": bool(decisions(scored.scores, threshold)[0]),
        "threshold": threshold,
        "model_version": scored.route.version.version,
    }


def _from_features(fields: dict[str, Any], width: int) -> EventVector:
    return EventVector(
        event_id=id_of(fields, "event_id") or uuid.uuid4().hex,
        key="",
        time_ms=now_ms(),
        inputs={"features": fields["features"]},
        matrix=row_of_numbers(fields["features"], width),
    )
