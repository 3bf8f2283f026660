"""The gateway's HTTP interface: Open Inference Protocol v2 and ``/predict/P``.

Built over a small service object per pipeline, so that it can be tested without a model server.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version as package_version
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from penstock_schemas.errors import ModelRejected, RecordError, RetryableError

from penstock_inference import oip
from penstock_inference.metrics import InferenceFamilies
from penstock_inference.pipeline import EventVector, decisions
from penstock_inference.request_numbers import row_of_numbers
from penstock_inference.rest_service import PipelineService, now_ms
from penstock_inference.routing import Route
from penstock_inference.settings import GatewaySettings

FEATURES_FORM: Final = frozenset({"features", "event_id"})
"""Keys of a /predict body that gives the features themselves."""


class UnknownModelError(Exception):
    """The pipeline, or the version of its model, is not known."""


class BusyError(Exception):
    """Too many requests are being worked on."""


def create_app(
    services: Mapping[str, PipelineService], settings: GatewaySettings, families: InferenceFamilies
) -> FastAPI:
    """Return the HTTP application.

    Parameters
    ----------
    services
        By pipeline name.
    """
    app = FastAPI(title="Penstock gateway", version=package_version("penstock-inference"))
    _add_errors(app, settings)
    _add_middleware(app, settings, families)
    _add_health(app, services)
    _add_models(app, services)
    _add_infer(app, services, settings)
    _add_predict(app, services)
    return app


def _service(services: Mapping[str, PipelineService], name: str) -> PipelineService:
    service = services.get(name)
    if service is None:
        raise UnknownModelError(f"unknown model {name!r}; known are {', '.join(sorted(services))}")
    return service


async def _route(service: PipelineService, version: str | None) -> Route:
    route = await service.scorer.route(version)
    if route is None:
        known = ", ".join(service.scorer.versions) or "none"
        raise UnknownModelError(f"unknown version {version!r}; known are {known}")
    return route


def _add_errors(app: FastAPI, settings: GatewaySettings) -> None:
    wait = {"Retry-After": str(settings.retry_after_s)}

    async def bad_input(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, RecordError)  # noqa: S101 - narrows the type
        facts = {"field": exc.field, "expected": exc.expected, "got": exc.got}
        return JSONResponse({"error": exc.message, **facts}, 400)

    async def unknown(_: Request, exc: Exception) -> Response:
        return JSONResponse({"error": str(exc)}, 404)

    async def busy(_: Request, exc: Exception) -> Response:
        return JSONResponse({"error": str(exc)}, 429, headers=wait)

    async def away(_: Request, exc: Exception) -> Response:
        return JSONResponse({"error": str(exc)}, 503, headers=wait)

    app.add_exception_handler(RecordError, bad_input)
    app.add_exception_handler(UnknownModelError, unknown)
    app.add_exception_handler(BusyError, busy)
    app.add_exception_handler(RetryableError, away)


def _add_middleware(app: FastAPI, settings: GatewaySettings, families: InferenceFamilies) -> None:
    """Count and time requests, and refuse those beyond the limit before any work."""
    in_flight = 0

    @app.middleware("http")
    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        nonlocal in_flight
        if request.method != "POST":
            return await call_next(request)
        if in_flight >= settings.max_in_flight:
            wait = {"Retry-After": str(settings.retry_after_s)}
            error = f"more than {settings.max_in_flight} requests at once; try again"
            families.requests.labels("", "refused", "429").inc()
            return JSONResponse({"error": error}, 429, headers=wait)
        in_flight += 1
        start = time.perf_counter()
        try:
            response = await call_next(request)
        finally:
            in_flight -= 1
        route = "predict" if request.url.path.startswith("/predict/") else "infer"
        families.latency.labels(route).observe(time.perf_counter() - start)
        pipeline = request.path_params.get("name", "") if response.status_code != 404 else ""
        families.requests.labels(pipeline, route, str(response.status_code)).inc()
        return response


def _add_health(app: FastAPI, services: Mapping[str, PipelineService]) -> None:
    @app.get("/v2/health/live")
    async def live() -> Response:
        return Response(status_code=200)

    @app.get("/v2/health/ready")
    async def ready() -> Response:
        is_ready = all(service.scorer.ready for service in services.values())
        return Response(status_code=200 if is_ready else 503)

    @app.get("/v2")
    async def server_metadata() -> dict[str, Any]:
        return {
            "name": oip.PLATFORM,
            "version": app.version,
            "extensions": list(oip.EXTENSIONS),
        }


def _add_models(app: FastAPI, services: Mapping[str, PipelineService]) -> None:
    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{version}")
    async def model_metadata(name: str, version: str | None = None) -> dict[str, Any]:
        service = _service(services, name)
        route = await _route(service, version)
        versions = service.scorer.versions if version is None else [version]
        return oip.metadata(name, route, versions)

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str | None = None) -> Response:
        service = _service(services, name)
        if version is not None:
            await _route(service, version)
        return Response(status_code=200 if service.scorer.ready else 503)


def _add_infer(
    app: FastAPI, services: Mapping[str, PipelineService], settings: GatewaySettings
) -> None:
    @app.post("/v2/models/{name}/infer")
    @app.post("/v2/models/{name}/versions/{version}/infer")
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        service = _service(services, name)
        _refuse_encoding(request)
        body = await request.body()
        asked = oip.parse(
            body, request.headers.get(oip.HEADER_LENGTH), service.width, settings.max_request_rows
        )
        route = await _route(service, version)
        scored = await service.scorer.score(route, asked.matrix)
        request_id = asked.id or uuid.uuid4().hex
        rows = len(asked.matrix)
        ids = [request_id] if rows == 1 else [f"{request_id}-{row}" for row in range(rows)]
        service.publish(None, ids, now_ms(), scored, asked.matrix)
        content, headers = oip.answer(name, route, asked, scored.scores)
        return Response(content, headers=headers)


def _add_predict(app: FastAPI, services: Mapping[str, PipelineService]) -> None:
    @app.post("/predict/{name}")
    async def predict(request: Request, name: str) -> Response:
        service = _service(services, name)
        _refuse_encoding(request)
        body = await request.body()
        fields = oip.parse_object(body)
        if "features" in fields and fields.keys() <= FEATURES_FORM:
            event = _from_features(fields, service.width)
        else:
            event = await service.event_vector(body)
        key = event.key.encode() if event.key else None
        scored = await service.scorer.answer(key, event.matrix)
        service.publish(event.key or None, [event.event_id], event.time_ms, scored, event.matrix)
        threshold = service.signature.threshold
        answer = {
            "event_id": event.event_id,
            "inputs": event.inputs,
            "scores": scored.scores[0].tolist(),
            "decision": bool(decisions(scored.scores, threshold)[0]),
            "threshold": threshold,
            "model_version": scored.route.version.version,
        }
        return Response(json.dumps(answer), media_type="application/json")


def _from_features(fields: dict[str, Any], width: int) -> EventVector:
    matrix = row_of_numbers(fields["features"], width)
    event_id = fields.get("event_id")
    return EventVector(
        event_id=event_id if isinstance(event_id, str) and event_id else uuid.uuid4().hex,
        key="",
        time_ms=now_ms(),
        inputs={"features": fields["features"]},
        matrix=matrix,
    )


def _refuse_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise ModelRejected(
            "compressed requests are not read",
            field="Content-Encoding",
            expected="identity",
            got=encoding[:20],
        )
