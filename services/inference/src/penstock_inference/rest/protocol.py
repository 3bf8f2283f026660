"""The Open Inference Protocol v2 over HTTP: requests to matrices, scores to answers, metadata.

Pure. JSON tensors and the binary-tensor extension, as the stock client ``tritonclient.http`` sends
and reads them.

References
----------
Open Inference Protocol, HTTP/REST; Triton's binary data extension, model configuration and model
repository extensions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from penstock_schemas.errors import DecodeError, RecordError, SchemaError, ShapeMismatch

from penstock_inference.routing import Route
from penstock_inference.tensors import Matrix
from penstock_inference.triton import DTYPE, INPUT, OUTPUT

LARGEST: Final = float(np.finfo(np.float32).max)
NUMBERS: Final = frozenset({int, float})
"""A boolean is an int to Python, and a string would be converted silently: exact types only."""


def row_of_numbers(values: Any, width: int) -> Matrix:
    """Return a JSON list of features as a matrix of one row.

    Raises
    ------
    RecordError
        It is not a list of ``width`` finite numbers.

    Examples
    --------
    >>> row_of_numbers([1, 2.5], 2).tolist()
    [[1.0, 2.5]]
    """
    if not isinstance(values, list):
        raise SchemaError("wrong type", field=INPUT, expected="a list of numbers", got=kind(values))
    if len(values) != width:
        raise wrong_width(width, len(values))
    return _numbers(values).reshape(1, width)


def from_binary(raw: bytes, size: Any, count: int) -> Matrix:
    """Return raw little-endian float32, of which ``count`` are expected."""
    if type(size) is not int or size != 4 * count or size != len(raw):
        raise ShapeMismatch(
            "wrong binary data",
            field="inputs[0].parameters.binary_data_size",
            expected=f"{4 * count} bytes",
            got=f"{str(size)[:20]}, with {len(raw)} sent",
        )
    values: Matrix = np.frombuffer(raw, dtype="<f4")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise _not_finite(int(bad[0]), str(values[bad[0]]))
    return values


def from_json(data: Any, rows: int, width: int) -> Matrix:
    """Return JSON numbers as float32: one flat list, or one list per row.

    Raises
    ------
    RecordError
        They are not ``rows`` times ``width`` finite numbers.

    Examples
    --------
    >>> from_json([[1, 2], [3, 4]], 2, 2).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    if not isinstance(data, list):
        raise SchemaError("wrong type", field="data", expected="lists of numbers", got=kind(data))
    if data and isinstance(data[0], list):
        data = _flat(data, width)
    if len(data) != rows * width:
        raise ShapeMismatch(
            "data and shape differ",
            field="inputs[0].data",
            expected=f"{rows * width} numbers",
            got=str(len(data)),
        )
    return _numbers(data)


def _flat(data: list[Any], width: int) -> list[Any]:
    flat: list[Any] = []
    for at, row in enumerate(data):
        if not isinstance(row, list) or (row and isinstance(row[0], list)):
            got = "lists of lists" if isinstance(row, list) else kind(row)
            raise SchemaError(
                "wrong type", field="data", expected="one list of numbers per row", got=got
            )
        if len(row) != width:
            raise ShapeMismatch(
                "data and shape differ",
                field=f"inputs[0].data[{at}]",
                expected=f"{width} numbers",
                got=str(len(row)),
            )
        flat.extend(row)
    return flat


def _numbers(flat: list[Any]) -> Matrix:
    if NUMBERS.issuperset(map(type, flat)):
        try:
            values = np.array(flat, dtype=np.float64)
        except OverflowError:
            values = np.array([np.nan])  # an integer beyond every float: named below
        # The comparison is False for NaN.
        if (np.abs(values) <= LARGEST).all():
            return values.astype(np.float32)
    for at, value in enumerate(flat):
        if type(value) not in NUMBERS or not abs(value) <= LARGEST:
            raise _not_finite(at, str(value)[:20] if type(value) is float else kind(value))
    raise AssertionError("one of the numbers is wrong")  # pragma: no cover


def _not_finite(at: int, got: str) -> SchemaError:
    return SchemaError(
        "wrong value", field=f"{INPUT}[{at}]", expected="a finite 32-bit number", got=got
    )


def wrong_width(expected: int, got: int) -> RecordError:
    """Return the error of a wrong number of features."""
    return ShapeMismatch(
        f"expected {expected} features, got {str(got)[:20]}",
        field=INPUT,
        expected=f"{expected} features",
        got=str(got)[:20],
    )


def kind(value: Any) -> str:
    """Return what a JSON value is, in a word."""
    return "nothing" if value is None else type(value).__name__


LONGEST_ID: Final = 256
"""Most characters of a caller's id: it becomes part of every record."""


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Strict where readers of JSON differ: UTF-8 only, no NaN, no key twice in one object. What one
    reader takes otherwise than another is a way past a check.

    Raises
    ------
    DecodeError
        It is not one.

    Examples
    --------
    >>> parse_object(b'{"id": "a"}')
    {'id': 'a'}
    >>> parse_object(b'{"id": "a", "id": "b"}')
    Traceback (most recent call last):
    ...
    penstock_schemas.errors.DecodeError: invalid JSON, expected a JSON object, got a key twice: 'id'
    """
    try:
        value = json.loads(
            str(body, "utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as exc:
        raise DecodeError("invalid JSON", expected="a JSON object", got=str(exc)[:80]) from exc
    if not isinstance(value, dict):
        raise DecodeError("invalid JSON", expected="a JSON object", got=kind(value))
    return value


def id_of(fields: dict[str, Any], name: str) -> str:
    """Return a caller's id; empty where it gives none.

    Raises
    ------
    SchemaError
        It is not a text that can be part of a record.
    """
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise SchemaError("wrong type", field=name, expected="a string", got=kind(value))
    if len(value) > LONGEST_ID:
        raise SchemaError(
            "too long",
            field=name,
            expected=f"at most {LONGEST_ID} characters",
            got=str(len(value)),
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        # JSON can write half a character; UTF-8, which records are written in, cannot.
        raise SchemaError(
            "wrong value", field=name, expected="Unicode text", got="a lone surrogate"
        )
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        raise ValueError(f"a key twice: {twice[:40]!r}")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


PLATFORM: Final = "penstock"
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration")
CONFIG_TYPE: Final = "TYPE_FP32"
"""The tensors' type as a model configuration writes it."""


def server_metadata(version: str) -> dict[str, Any]:
    """Return the metadata of the gateway."""
    return {"name": PLATFORM, "version": version, "extensions": list(EXTENSIONS)}


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


def config(pipeline: str, route: Route, max_rows: int) -> dict[str, Any]:
    """Return the configuration of a pipeline's model: what a stock client needs to build requests.

    Parameters
    ----------
    max_rows
        Most rows of one request.
    """
    model = route.model
    return {
        "name": pipeline,
        "platform": PLATFORM,
        "max_batch_size": max_rows,
        "input": [{"name": INPUT, "data_type": CONFIG_TYPE, "dims": [model.width]}],
        "output": [{"name": OUTPUT, "data_type": CONFIG_TYPE, "dims": [model.score_width]}],
    }


def index_entry(pipeline: str, version: str, trouble: str) -> dict[str, str]:
    """Return a version's entry in the index of models.

    Parameters
    ----------
    trouble
        Why it does not answer; empty where it does.

    Examples
    --------
    >>> index_entry("fraud", "3", "")
    {'name': 'fraud', 'version': '3', 'state': 'READY', 'reason': ''}
    """
    state = "UNAVAILABLE" if trouble else "READY"
    return {"name": pipeline, "version": version, "state": state, "reason": trouble}


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
