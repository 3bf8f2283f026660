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

from penstock_schemas.errors import DecodeError, RecordError, SchemaError, ShapeMismatch

from penstock_inference.request_json import id_of, parse_object
from penstock_inference.request_numbers import from_binary, from_json, kind, wrong_width
from penstock_inference.routing import Route
from penstock_inference.tensors import Matrix
from penstock_inference.triton import DTYPE, INPUT, OUTPUT

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
LARGEST_TIMEOUT_US: Final = 10**15


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
    timeout_s
        How long the caller waits, seconds; None where it does not say.
    """

    id: str
    matrix: Matrix
    binary: bool
    timeout_s: float | None = None


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
    split = len(body) if header_length is None else _split(header_length, len(body))
    request = parse_object(body[:split])
    tensor = _only_input(request)
    matrix = _matrix(tensor, body[split:], width, max_rows)
    binary = _wants_binary(request)
    return InferRequest(id_of(request, "id"), matrix, binary, _timeout_s(request))


def _split(header_length: str, size: int) -> int:
    is_length = header_length.isascii() and header_length.isdecimal() and len(header_length) <= 18
    if not is_length or int(header_length) > size:
        raise DecodeError(
            "wrong header",
            field=HEADER_LENGTH,
            expected=f"a length of at most {size}",
            got=header_length[:20],
        )
    return int(header_length)


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
            got=str(rows)[:20],
        )
    parameters = _parameters(tensor, "inputs[0].")
    _refuse_shared_memory(parameters, "inputs[0].")
    size = parameters.get("binary_data_size")
    if size is not None:
        if "data" in tensor:
            raise _unwanted("inputs[0].data", "nothing beside binary_data_size")
        return from_binary(raw, size, rows * width).reshape(rows, width)
    if raw:
        raise _unwanted("inputs[0].parameters.binary_data_size", f"the size of {len(raw)} bytes")
    return from_json(tensor.get("data"), rows, width).reshape(rows, width)


def _wants_binary(request: dict[str, Any]) -> bool:
    wanted = _flag(_parameters(request), "binary_data_output", "parameters", default=False)
    outputs = request.get("outputs")
    if outputs is not None and not isinstance(outputs, list):
        raise SchemaError("wrong type", field="outputs", expected="a list", got=kind(outputs))
    for at, output in enumerate(outputs or []):
        name = output.get("name") if isinstance(output, dict) else None
        if name != OUTPUT or at > 0:
            raise ShapeMismatch(
                "unknown output" if name != OUTPUT else "an output asked for twice",
                field=f"outputs[{at}].name",
                expected=OUTPUT if at == 0 else "one output",
                got=str(name)[:40],
            )
        where = f"outputs[{at}]."
        parameters = _parameters(output, where)
        _refuse_shared_memory(parameters, where)
        if parameters.get("classification"):
            raise _unwanted(f"{where}parameters.classification", "scores: they have no labels")
        wanted = _flag(parameters, "binary_data", f"{where}parameters", default=wanted)
    return wanted


def _timeout_s(request: dict[str, Any]) -> float | None:
    """Return Triton's request parameter, which is in microseconds; 0 is none."""
    timeout_us = _parameters(request).get("timeout", 0)
    if type(timeout_us) is not int or not 0 <= timeout_us <= LARGEST_TIMEOUT_US:
        raise SchemaError(
            "wrong value",
            field="parameters.timeout",
            expected="microseconds",
            got=str(timeout_us)[:20],
        )
    return timeout_us / 1e6 if timeout_us else None


def _parameters(node: dict[str, Any], where: str = "") -> dict[str, Any]:
    parameters = node.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise SchemaError(
            "wrong type", field=f"{where}parameters", expected="an object", got=kind(parameters)
        )
    return parameters


def _flag(parameters: dict[str, Any], name: str, where: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise SchemaError(
            "wrong type", field=f"{where}.{name}", expected="a boolean", got=kind(value)
        )
    return value


def _refuse_shared_memory(parameters: dict[str, Any], where: str) -> None:
    if "shared_memory_region" in parameters:
        raise _unwanted(f"{where}parameters.shared_memory_region", "the tensor in the body")


def _unwanted(field: str, expected: str) -> RecordError:
    return SchemaError("not supported here", field=field, expected=expected, got="it is given")


def answer(
    pipeline: str, route: Route, request: InferRequest, scores: Matrix
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of an inference response."""
    output: dict[str, Any] = {"name": OUTPUT, "datatype": DTYPE, "shape": list(scores.shape)}
    response = {
        "model_name": pipeline,
        "model_version": route.version.version,
        **({"id": request.id} if request.id else {}),
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
