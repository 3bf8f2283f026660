"""The Open Inference Protocol v2 over HTTP: requests to matrices, scores to answers, metadata.

Pure. Bodies are `msgspec.Struct`: decoded, checked against their types and described (the OpenAPI
document is generated from them) in one place. JSON tensors and the binary-tensor extension, as the
stock client ``tritonclient.http`` sends and reads them.

References
----------
Open Inference Protocol, HTTP/REST; Triton's binary data extension, model configuration and model
repository extensions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from penstock_schemas.errors import DecodeError, RecordError, SchemaError, ShapeMismatch

from penstock_inference.model_server import DTYPE, INPUT, OUTPUT, Matrix
from penstock_inference.traffic_split import Route

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
LARGEST_TIMEOUT_US: Final = 10**15
LONGEST_ID: Final = 256
"""Most characters of a caller's id: it becomes part of every record."""
LARGEST: Final = float(np.finfo(np.float32).max)
PLATFORM: Final = "penstock"
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration")
CONFIG_TYPE: Final = "TYPE_FP32"
"""The tensors' type as a model configuration writes it."""
FEATURES_FORM: Final = frozenset({"features", "event_id"})
"""Keys of a /predict body that gives the features themselves."""

Body = TypeVar("Body")
Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
"""A finite 32-bit number: JSON has no NaN, and what is beyond the range is refused."""
Id = Annotated[str, Meta(max_length=LONGEST_ID)]
Shape = Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=2, max_length=2)]
InputName = Annotated[str, Meta(extra_json_schema={"const": INPUT})]
OutputName = Annotated[str, Meta(extra_json_schema={"const": OUTPUT})]
Datatype = Annotated[str, Meta(extra_json_schema={"const": DTYPE})]
Unsupported = Annotated[Any, Meta(description="Not supported: a request with it is refused")]


class InputParameters(Struct):
    """Parameters of an input tensor."""

    binary_data_size: int | None = None
    shared_memory_region: Unsupported = UNSET


class InputTensor(Struct):
    """The tensor of an inference request; its data may follow the JSON as raw bytes."""

    name: InputName
    datatype: Datatype
    shape: Shape
    data: list[Number | list[Number]] | UnsetType = UNSET
    parameters: InputParameters | None = None


class WantedParameters(Struct):
    """Parameters of an output that is asked for."""

    binary_data: bool | UnsetType = UNSET
    shared_memory_region: Unsupported = UNSET
    classification: Unsupported = None


class WantedOutput(Struct):
    """An output that is asked for."""

    name: OutputName
    parameters: WantedParameters | None = None


class RequestParameters(Struct):
    """Parameters of an inference request."""

    timeout: Annotated[
        int,
        Meta(
            ge=0,
            le=LARGEST_TIMEOUT_US,
            description="Microseconds; 0: the gateway's own limit",
        ),
    ] = 0
    binary_data_output: bool = False


class InferBody(Struct):
    """The JSON of an inference request."""

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=1)]
    id: Id = ""
    outputs: list[WantedOutput] | None = None
    parameters: RequestParameters | None = None


class OutputTensor(Struct, omit_defaults=True):
    """The scores of an inference response."""

    name: OutputName
    datatype: Datatype
    shape: Shape
    data: list[float] | UnsetType = UNSET
    parameters: dict[str, int] | UnsetType = UNSET


class InferAnswer(Struct, omit_defaults=True):
    """The JSON of an inference response."""

    model_name: str
    model_version: str
    outputs: Annotated[list[OutputTensor], Meta(min_length=1, max_length=1)]
    id: str = ""


class FeaturesForm(Struct):
    """A /predict body that gives the features as the model sees them."""

    features: list[Number]
    event_id: Id = ""


class Prediction(Struct):
    """The answer of /predict."""

    event_id: str
    inputs: dict[str, Any]
    scores: list[float]
    decision: bool
    threshold: float
    model_version: str


class IndexBody(Struct):
    """What is asked of the index of models."""

    ready: bool = False


class IndexEntry(Struct):
    """A version in the index of models; ``reason`` says why it does not answer."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class ErrorBody(Struct):
    """An error; the last three name the field of a wrong request."""

    error: str
    field: str | None = None
    expected: str | None = None
    got: str | None = None


_INFER: Final = msgspec.json.Decoder(InferBody)
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_FEATURES: Final = msgspec.json.Decoder(FeaturesForm)
_INDEX: Final = msgspec.json.Decoder(IndexBody)


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


@dataclass(frozen=True, slots=True)
class GivenFeatures:
    """A /predict request by features.

    Parameters
    ----------
    event_id
        The caller's; may be empty.
    features
        As they were sent, echoed.
    matrix
        Shape (1, d), float32, finite.
    """

    event_id: str
    features: Raw
    matrix: Matrix


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
    request = _decoded(_INFER, body[:split], width)
    parameters = request.parameters or RequestParameters()
    matrix = _matrix(request.inputs[0], body[split:], width, max_rows)
    binary = _wants_binary(request.outputs or [], default=parameters.binary_data_output)
    return InferRequest(request.id, matrix, binary, parameters.timeout / 1e6 or None)


def parse_features(body: bytes, width: int) -> GivenFeatures | None:
    """Read a /predict request by features; None where it gives an event's named fields.

    Raises
    ------
    RecordError
        It is no JSON object, or its features are not ``width`` finite numbers.

    Examples
    --------
    >>> parse_features(b'{"features": [1, 2.5]}', 2).matrix.tolist()
    [[1.0, 2.5]]
    >>> parse_features(b'{"features": [1, 2.5], "amount": 1}', 2)
    """
    fields = _decoded(_FIELDS, body)
    if "features" not in fields or not fields.keys() <= FEATURES_FORM:
        return None
    form = _decoded(_FEATURES, body)
    if len(form.features) != width:
        raise _wrong_width(width, len(form.features))
    matrix = np.array(form.features, dtype=np.float32).reshape(1, width)
    return GivenFeatures(form.event_id, fields["features"], matrix)


def parse_index(body: bytes) -> IndexBody:
    """Read what is asked of the index of models; an empty body asks for all.

    Raises
    ------
    RecordError
        It is no JSON object, or not of the right types.
    """
    return _decoded(_INDEX, body or b"{}")


def _decoded(decoder: msgspec.json.Decoder[Body], body: bytes, width: int = 1) -> Body:
    try:
        str(body, "utf-8")  # the decoder skips the text of fields that it does not know
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise _named(str(exc), width, body) from exc
    except (ValueError, RecursionError) as exc:
        # JSON can write half a character; UTF-8, which records are written in, cannot.
        half = _HALF.search(body)
        if half is not None:
            raise DecodeError(
                "wrong value",
                field=half[1].decode(),
                expected="Unicode text",
                got="a lone surrogate",
            ) from exc
        raise DecodeError("invalid JSON", expected="a JSON object", got=str(exc)[:80]) from exc


_HALF: Final = re.compile(rb'"(\w+)"\s*:\s*"(?:[^"\\]|\\.)*?\\u[dD][89abAB]\w\w(?!\\u[dD][c-fC-F])')
"""A named text in which a surrogate has no second half."""
_PLACE: Final = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL)
_WRONG: Final = re.compile(r"Expected (?P<expected>.*?)(?:, got `(?P<got>.*)`)?", re.DOTALL)
_TENSOR: Final = re.compile(r"inputs\[0\]\.(shape|data)((?:\[\d+\])*)|(features)(\[\d+\])")


def _named(text: str, width: int, body: bytes) -> RecordError:
    """Return msgspec's error with its path as the contract's field.

    A number of a tensor is named by its feature: ``$.inputs[0].data[1][2]`` is ``features[5]`` of a
    model with three features.
    """
    place = _PLACE.fullmatch(text)
    what, path = (place["what"], place["path"] or "") if place else (text, "")
    missing = re.search(r"missing required field `(.*)`", what)
    if missing:
        field = f"{path}.{missing[1]}".removeprefix(".")
        return SchemaError("missing", field=field, expected="a value", got="nothing")
    wrong = _WRONG.fullmatch(what)
    expected = wrong["expected"].replace("`", "") if wrong else "a finite 32-bit number"
    got = (wrong["got"] or _given(body, path)) if wrong else what
    if not path:
        return DecodeError("invalid JSON", expected="a JSON object", got=got)
    message = "wrong type" if wrong and wrong["got"] else "wrong value"
    tensor = _TENSOR.fullmatch(path)
    if tensor is None:
        return SchemaError(message, field=path, expected=expected, got=got)
    if tensor[1] == "shape":
        field = "inputs[0].shape"
        return ShapeMismatch("wrong shape", field=field, expected=f"[rows, {width}]", got=got)
    at = [int(number) for number in re.findall(r"\d+", tensor[2] or tensor[4] or "")]
    if not at or got == "array":
        expected = "one list of numbers per row" if at else "lists of numbers"
        return SchemaError("wrong type", field="data", expected=expected, got=got)
    flat = at[0] if len(at) == 1 else at[0] * width + at[1]
    return _not_finite(flat, got or "a number beyond it")


def _given(body: bytes, path: str) -> str | None:
    """Return what stands at a path of a body, in short: a breach of a bound does not tell."""
    try:
        value = msgspec.json.decode(body)
    except (ValueError, RecursionError):  # behind the breach: no JSON
        return "invalid JSON"
    for step in re.findall(r"\w+", path):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return None
    if isinstance(value, str):
        return f"{len(value)} characters"
    if isinstance(value, list) and not all(isinstance(each, int | float) for each in value):
        return f"{len(value)} entries"
    return msgspec.json.encode(value).decode()[:80]


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


def _matrix(tensor: InputTensor, raw: bytes, width: int, max_rows: int) -> Matrix:
    for field, given, expected in (
        ("name", tensor.name, INPUT),
        ("datatype", tensor.datatype, DTYPE),
    ):
        if given != expected:
            raise ShapeMismatch(
                f"wrong {field}", field=f"inputs[0].{field}", expected=expected, got=given[:40]
            )
    rows, columns = tensor.shape
    if columns != width:
        raise _wrong_width(width, columns)
    if not 1 <= rows <= max_rows:
        raise ShapeMismatch(
            "wrong number of rows",
            field="inputs[0].shape",
            expected=f"1 to {max_rows}",
            got=_short(rows),
        )
    parameters = tensor.parameters or InputParameters()
    _refuse_shared_memory(parameters, "inputs[0].")
    size = parameters.binary_data_size
    if size is not None:
        if tensor.data is not UNSET:
            raise _unwanted("inputs[0].data", "nothing beside binary_data_size")
        return _from_binary(raw, size, rows * width).reshape(rows, width)
    if raw:
        raise _unwanted("inputs[0].parameters.binary_data_size", f"the size of {len(raw)} bytes")
    return _from_json(tensor.data, rows, width).reshape(rows, width)


def _from_binary(raw: bytes, size: int, count: int) -> Matrix:
    """Return raw little-endian float32, of which ``count`` are expected."""
    if size != 4 * count or size != len(raw):
        raise ShapeMismatch(
            "wrong binary data",
            field="inputs[0].parameters.binary_data_size",
            expected=f"{4 * count} bytes",
            got=f"{_short(size)}, with {len(raw)} sent",
        )
    values: Matrix = np.frombuffer(raw, dtype="<f4")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise _not_finite(int(bad[0]), str(values[bad[0]]))
    return values


def _from_json(data: list[float | list[float]] | UnsetType, rows: int, width: int) -> Matrix:
    """Return JSON numbers as float32: one flat list, or one list per row."""
    if data is UNSET:
        raise SchemaError("wrong type", field="data", expected="lists of numbers", got="nothing")
    is_nested = bool(data) and isinstance(data[0], list)
    if is_nested:
        _check_rows(data, width)
    expected = rows if is_nested else rows * width
    if len(data) != expected:
        raise ShapeMismatch(
            "data and shape differ",
            field="inputs[0].data",
            expected=f"{rows * width} numbers",
            got=str(len(data) * (width if is_nested else 1)),
        )
    try:
        return np.array(data, dtype=np.float32)
    except ValueError as exc:
        raise SchemaError(
            "wrong type", field="data", expected="one list of numbers", got="lists among numbers"
        ) from exc


def _check_rows(data: list[float | list[float]], width: int) -> None:
    for at, row in enumerate(data):
        if not isinstance(row, list):
            raise SchemaError(
                "wrong type", field="data", expected="one list of numbers per row", got="float"
            )
        if len(row) != width:
            raise ShapeMismatch(
                "data and shape differ",
                field=f"inputs[0].data[{at}]",
                expected=f"{width} numbers",
                got=str(len(row)),
            )


def _wants_binary(outputs: list[WantedOutput], *, default: bool) -> bool:
    wanted = default
    for at, output in enumerate(outputs):
        if output.name != OUTPUT or at > 0:
            raise ShapeMismatch(
                "unknown output" if output.name != OUTPUT else "an output asked for twice",
                field=f"outputs[{at}].name",
                expected=OUTPUT if at == 0 else "one output",
                got=output.name[:40],
            )
        parameters = output.parameters or WantedParameters()
        _refuse_shared_memory(parameters, f"outputs[{at}].")
        if parameters.classification:
            field = f"outputs[{at}].parameters.classification"
            raise _unwanted(field, "scores: they have no labels")
        if parameters.binary_data is not UNSET:
            wanted = parameters.binary_data
    return wanted


def _refuse_shared_memory(parameters: InputParameters | WantedParameters, where: str) -> None:
    if parameters.shared_memory_region is not UNSET:
        raise _unwanted(f"{where}parameters.shared_memory_region", "the tensor in the body")


def _unwanted(field: str, expected: str) -> RecordError:
    return SchemaError("not supported here", field=field, expected=expected, got="it is given")


def _not_finite(at: int, got: str) -> RecordError:
    return SchemaError(
        "wrong value", field=f"{INPUT}[{at}]", expected="a finite 32-bit number", got=got
    )


def _wrong_width(expected: int, got: int) -> RecordError:
    return ShapeMismatch(
        f"expected {expected} features, got {_short(got)}",
        field=INPUT,
        expected=f"{expected} features",
        got=_short(got),
    )


def _short(number: int) -> str:
    """Return a caller's whole number as an error may repeat it: Python refuses the longest."""
    return str(number) if abs(number) < 10**19 else "a larger number"


def answer(
    pipeline: str, route: Route, request: InferRequest, scores: Matrix
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of an inference response."""
    output = OutputTensor(OUTPUT, DTYPE, list(scores.shape))
    response = InferAnswer(pipeline, route.version.version, [output], request.id)
    if not request.binary:
        output.data = scores.ravel().tolist()
        return msgspec.json.encode(response), {"Content-Type": "application/json"}
    raw = scores.astype("<f4").tobytes()
    output.parameters = {"binary_data_size": len(raw)}
    header = msgspec.json.encode(response)
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return header + raw, headers


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


def index_entry(pipeline: str, version: str, trouble: str) -> IndexEntry:
    """Return a version's entry in the index of models.

    Parameters
    ----------
    trouble
        Why it does not answer; empty where it does.

    Examples
    --------
    >>> index_entry("fraud", "3", "")
    IndexEntry(name='fraud', version='3', state='READY', reason='')
    """
    return IndexEntry(pipeline, version, "UNAVAILABLE" if trouble else "READY", trouble)
