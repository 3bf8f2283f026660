"""The Open Inference Protocol v2 over HTTP: requests to matrices, scores to answers.

Pure. JSON tensors and the binary-tensor extension, as the stock client ``tritonclient.http`` sends
and reads them.

References
----------
Open Inference Protocol, HTTP/REST; Triton's binary data extension.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from penstock_schemas.errors import DecodeError, SchemaError, ShapeMismatch

from penstock_inference.request_numbers import from_binary, kind, numbers, wrong_width
from penstock_inference.routing import Route
from penstock_inference.tensors import Matrix
from penstock_inference.triton import DTYPE, INPUT, OUTPUT

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
PLATFORM: Final = "penstock"
EXTENSIONS: Final = ("binary_tensor_data",)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that was understood.

    Parameters
    ----------
    id
        The caller's, echoed; may be empty.
    matrix
        Shape (n, d), float32, finite.
    binary
        Whether the scores are asked for as raw bytes behind the JSON.
    """

    id: str
    matrix: Matrix
    binary: bool


def parse(body: bytes, header_length: str | None, width: int, max_rows: int) -> InferRequest:
    """Read an inference request.

    Parameters
    ----------
    header_length
        Value of the header that says how much of the body is JSON; None: all of it.
    width
        Number of features of the model.
    max_rows
        Most rows of one request.

    Raises
    ------
    RecordError
        Naming the field, what was expected and what came.
    """
    split = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or int(header_length) > len(body):
            raise DecodeError(
                "wrong header", field=HEADER_LENGTH, expected="a length", got=header_length[:20]
            )
        split = int(header_length)
    request = parse_object(body[:split])
    tensor = _only_input(request)
    matrix = _matrix(tensor, body[split:], width, max_rows)
    request_id = request.get("id", "")
    if not isinstance(request_id, str):
        raise SchemaError("wrong type", field="id", expected="a string", got=kind(request_id))
    return InferRequest(request_id, matrix, _wants_binary(request))


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises
    ------
    DecodeError
        It is not one.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise DecodeError("invalid JSON", expected="a JSON object", got=str(exc)[:80]) from exc
    if not isinstance(value, dict):
        raise DecodeError("invalid JSON", expected="a JSON object", got=kind(value))
    return value


def _only_input(request: dict[str, Any]) -> dict[str, Any]:
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        got = f"{len(inputs)} tensors" if isinstance(inputs, list) else kind(inputs)
        raise ShapeMismatch("wrong inputs", field="inputs", expected=f"[{INPUT}]", got=got)
    tensor: dict[str, Any] = inputs[0]
    for field, expected in (("name", INPUT), ("datatype", DTYPE)):
        if tensor.get(field) != expected:
            raise ShapeMismatch(
                f"wrong {field}",
                field=f"inputs[0].{field}",
                expected=expected,
                got=str(tensor.get(field))[:40],
            )
    return tensor


def _matrix(tensor: dict[str, Any], raw: bytes, width: int, max_rows: int) -> Matrix:
    shape = tensor.get("shape")
    is_shape = isinstance(shape, list) and len(shape) == 2
    if not is_shape or not all(type(d) is int and d >= 0 for d in shape or []):
        raise ShapeMismatch(
            "wrong shape", field="inputs[0].shape", expected=f"[rows, {width}]", got=str(shape)[:40]
        )
    rows, columns = shape  # type: ignore[misc] # checked above
    if columns != width:
        raise wrong_width(width, columns)
    if not 1 <= rows <= max_rows:
        raise ShapeMismatch(
            "wrong number of rows",
            field="inputs[0].shape",
            expected=f"1 to {max_rows}",
            got=str(rows),
        )
    size = _parameters(tensor).get("binary_data_size")
    if size is not None:
        values = from_binary(raw, size, rows * width)
    else:
        values = numbers(tensor.get("data"))
    if values.size != rows * width:
        raise ShapeMismatch(
            "data and shape differ",
            field="inputs[0].data",
            expected=f"{rows * width} numbers",
            got=str(values.size),
        )
    return values.reshape(rows, width)


def _wants_binary(request: dict[str, Any]) -> bool:
    outputs = request.get("outputs") or []
    wanted = _parameters(request).get("binary_data_output", False)
    if not isinstance(outputs, list):
        raise SchemaError("wrong type", field="outputs", expected="a list", got=kind(outputs))
    for at, output in enumerate(outputs):
        name = output.get("name") if isinstance(output, dict) else None
        if name != OUTPUT:
            raise ShapeMismatch(
                "unknown output", field=f"outputs[{at}].name", expected=OUTPUT, got=str(name)[:40]
            )
        wanted = _parameters(output).get("binary_data", wanted)
    return bool(wanted)


def _parameters(node: dict[str, Any]) -> dict[str, Any]:
    parameters = node.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise SchemaError(
            "wrong type", field="parameters", expected="an object", got=kind(parameters)
        )
    return parameters


def answer(
    pipeline: str, route: Route, request: InferRequest, scores: Matrix
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of an inference response."""
    output: dict[str, Any] = {"name": OUTPUT, "datatype": DTYPE, "shape": list(scores.shape)}
    response = {
        "model_name": pipeline,
        "model_version": route.version.version,
        "id": request.id,
        "outputs": [output],
    }
    if not request.binary:
        output["data"] = scores.ravel().tolist()
        return json.dumps(response).encode(), {"Content-Type": "application/json"}
    raw = scores.astype("<f4").tobytes()
    output["parameters"] = {"binary_data_size": len(raw)}
    header = json.dumps(response).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return header + raw, headers


def metadata(pipeline: str, route: Route, versions: list[str]) -> dict[str, Any]:
    """Return the metadata of a pipeline's model."""
    model = route.model
    return {
        "name": pipeline,
        "versions": versions,
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": DTYPE, "shape": [-1, model.width]}],
        "outputs": [{"name": OUTPUT, "datatype": DTYPE, "shape": [-1, model.score_width]}],
    }
