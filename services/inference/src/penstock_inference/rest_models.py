"""Routes that tell of the gateway and of its models: health, metadata, configuration, index."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from penstock_schemas.errors import RetryableError, SchemaError

from penstock_inference import oip_models
from penstock_inference.request_json import parse_object
from penstock_inference.request_numbers import kind
from penstock_inference.rest_errors import UnknownModelError, shown
from penstock_inference.rest_limits import deadline_of, read_body, until
from penstock_inference.rest_openapi import INDEX, answers, documented
from penstock_inference.rest_service import PipelineService
from penstock_inference.routing import Route
from penstock_inference.settings import GatewaySettings

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
        return oip_models.server_metadata(app.version)


def add_models(app: FastAPI, services: Services, settings: GatewaySettings) -> None:
    """Add what clients ask about a model."""

    async def metadata(name: str, version: str | None) -> dict[str, Any]:
        service = service_of(services, name)
        route = await route_of(service, version)
        versions = service.scorer.versions if version is None else [version]
        return oip_models.metadata(name, route, versions)

    async def ready(name: str, version: str | None) -> Response:
        service = service_of(services, name)
        if version is not None:
            await route_of(service, version)
        return Response(status_code=200 if service.scorer.ready else 503)

    async def config(name: str, version: str | None) -> dict[str, Any]:
        route = await route_of(service_of(services, name), version)
        return oip_models.config(name, route, settings.max_request_rows)

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
                oip_models.index_entry(name, version, await _trouble(service, version))
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
