"""The gateway's HTTP interface: Open Inference Protocol v2 and ``/predict/P``.

Built over a small service object per pipeline, so that it can be tested without a model server.
"""

from __future__ import annotations

import json
import uuid
from importlib.metadata import version as package_version
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import Response
from penstock_streaming.deadline import Deadline

from penstock_inference import oip
from penstock_inference.metrics import InferenceFamilies
from penstock_inference.pipeline import EventVector, decisions
from penstock_inference.request_json import id_of, parse_object
from penstock_inference.request_numbers import row_of_numbers
from penstock_inference.rest_errors import add_errors
from penstock_inference.rest_guard import Guard
from penstock_inference.rest_limits import RowBudget, deadline_of, read_body, until
from penstock_inference.rest_models import (
    Services,
    add_health,
    add_index,
    add_models,
    route_of,
    service_of,
)
from penstock_inference.rest_openapi import INFER, PREDICT, describe
from penstock_inference.rest_service import now_ms
from penstock_inference.scoring import Scored
from penstock_inference.settings import GatewaySettings

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
        asked = oip.parse(
            body, request.headers.get(oip.HEADER_LENGTH), service.width, settings.max_request_rows
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
        content, headers = oip.answer(name, route, asked, scored.scores)
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
