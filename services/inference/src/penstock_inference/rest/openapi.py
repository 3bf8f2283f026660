"""What the gateway's OpenAPI document says of each operation beyond its path.

Bodies are read by hand, so that every error can name its field; the document is therefore written
by hand too, and a test holds the two together.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

from penstock_inference.rest.limits import HEADER_TIMEOUT
from penstock_inference.rest.protocol import HEADER_LENGTH
from penstock_inference.triton import DTYPE, INPUT, OUTPUT

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string"}
_WHOLE: Final[Json] = {"type": "integer", "minimum": 0}
_NUMBERS: Final[Json] = {"type": "array", "items": {"type": "number"}}
_ROWS: Final[Json] = {"oneOf": [_NUMBERS, {"type": "array", "items": _NUMBERS}]}
_BYTES: Final[Json] = {"type": "string", "format": "binary"}


def _object(required: tuple[str, ...], **properties: Json) -> Json:
    return {"type": "object", "required": list(required), "properties": properties}


ERROR: Final = _object(
    ("error",),
    error=_TEXT,
    field={"type": ["string", "null"]},
    expected={"type": ["string", "null"]},
    got={"type": ["string", "null"]},
)
_SHAPE: Final[Json] = {"type": "array", "items": _WHOLE, "minItems": 2, "maxItems": 2}
_PARAMETERS: Final[Json] = {"type": "object"}
_INPUT: Final = _object(
    ("name", "datatype", "shape"),
    name={"const": INPUT},
    datatype={"const": DTYPE},
    shape=_SHAPE,
    data=_ROWS,
    parameters=_object((), binary_data_size=_WHOLE),
)
_WANTED: Final = _object(
    ("name",), name={"const": OUTPUT}, parameters=_object((), binary_data={"type": "boolean"})
)
_REQUEST: Final = _object(
    ("inputs",),
    id={"type": "string", "maxLength": 256},
    inputs={"type": "array", "items": _INPUT, "minItems": 1, "maxItems": 1},
    outputs={"type": "array", "items": _WANTED, "maxItems": 1},
    parameters=_object(
        (),
        timeout={**_WHOLE, "description": "Microseconds; 0: the gateway's own limit"},
        binary_data_output={"type": "boolean"},
    ),
)
_OUTPUT: Final = _object(
    ("name", "datatype", "shape"),
    name={"const": OUTPUT},
    datatype={"const": DTYPE},
    shape=_SHAPE,
    data=_NUMBERS,
    parameters=_PARAMETERS,
)
_RESPONSE: Final = _object(
    ("model_name", "model_version", "outputs"),
    model_name=_TEXT,
    model_version=_TEXT,
    id=_TEXT,
    outputs={"type": "array", "items": _OUTPUT, "minItems": 1, "maxItems": 1},
)
_EVENT: Final[Json] = {
    "type": "object",
    "description": "The event's named fields, as the pipeline's event.avsc has them; or the "
    f"features as the model sees them: {{{INPUT!r}: [numbers], 'event_id': text}}",
}
_PREDICTION: Final = _object(
    ("event_id", "inputs", "scores", "decision", "threshold", "model_version"),
    event_id=_TEXT,
    inputs={"type": "object"},
    scores=_NUMBERS,
    decision={"type": "boolean"},
    threshold={"type": "number"},
    model_version=_TEXT,
)
_ENTRIES: Final[Json] = {
    "type": "array",
    "items": _object(
        ("name", "version", "state", "reason"),
        name=_TEXT,
        version=_TEXT,
        state={"enum": ["READY", "UNAVAILABLE"]},
        reason=_TEXT,
    ),
}
MEANINGS: Final = {
    200: "Answered",
    400: "The request is wrong; the error names the field, what was expected and what came",
    404: "No such model, or no such version of it",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is of a media type or encoding that is not read",
    429: "Too much is being worked on; come back after Retry-After seconds",
    500: "The gateway or its configuration is wrong",
    503: "The model, or what it needs, is away; come back after Retry-After seconds",
    504: "The deadline has passed",
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
    "schema": _WHOLE,
}


def describe(app: FastAPI) -> None:
    """Have an application's document leave out what its framework assumes and is not so.

    Path parameters are text of any kind, so no request fails the framework's own validation.
    """
    written = app.openapi

    def openapi() -> Json:
        document = written()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        document.pop("components", None)
        return document

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI documents


def answers(*statuses: int, content: Json | None = None) -> dict[int | str, Json]:
    """Return the responses of an operation.

    Parameters
    ----------
    statuses
        Beside 200.
    content
        Of a 200, by media type.
    """
    error = {"application/json": {"schema": ERROR}}
    found: dict[int | str, Json] = {
        status: {"description": MEANINGS[status], "content": error} for status in statuses
    }
    found[200] = {"description": MEANINGS[200]} | ({"content": content} if content else {})
    return found


def documented(tag: str, summary: str, responses: dict[int | str, Json]) -> Json:
    """Return an operation's part of its route."""
    return {"tags": [tag], "summary": summary, "responses": responses}


def _worked(summary: str, body: Json, content: Json, *headers: Json, required: bool = True) -> Json:
    """Return the part of an operation that reads a body and has a deadline."""
    extra = {"requestBody": {"required": required, "content": body}, "parameters": list(headers)}
    told = answers(*_WORK, content=content)
    return {**documented("inference", summary, told), "openapi_extra": extra}


INFER: Final = _worked(
    "Scores of a tensor",
    {"application/json": {"schema": _REQUEST}, "application/octet-stream": {"schema": _BYTES}},
    {"application/json": {"schema": _RESPONSE}, "application/octet-stream": {"schema": _BYTES}},
    _DEADLINE,
    _JSON_LENGTH,
)
PREDICT: Final = _worked(
    "Prediction for one event",
    {"application/json": {"schema": _EVENT}},
    {"application/json": {"schema": _PREDICTION}},
    _DEADLINE,
)
INDEX: Final = _worked(
    "Every version of every model",
    {"application/json": {"schema": _object((), ready={"type": "boolean"})}},
    {"application/json": {"schema": _ENTRIES}},
    _DEADLINE,
    required=False,
)
