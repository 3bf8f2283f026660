"""Whatever is sent, the answer is a defined one: over a real socket, byte by byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.clients import Caller, serving, well_said
from harness.inference import WIDTH, FakeLink, Published, gateway, infer_body
from harness.models import NAME, write_folder
from penstock_inference.rest import protocol
from penstock_inference.rest.event_vectors import EventVectors
from penstock_pipelines.loader import load_pipeline

INFER, PREDICT = "/v2/models/tiny/infer", "/predict/tiny"


@pytest.fixture(scope="module")
def published() -> Published:
    return Published()


@pytest.fixture(scope="module")
def caller(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """A gateway over the real reader of events."""
    pipeline = load_pipeline(write_folder(tmp_path_factory.mktemp(NAME)))
    vectors = EventVectors(pipeline, Path("no-feast"))
    vectors.warm_up()
    app = gateway(FakeLink(), published, vector=vectors.vector, max_body_bytes=2**16)
    with serving(app) as made:
        yield made


def tensor(**changes: Any) -> bytes:
    return json.dumps(infer_body(**changes)).encode()


def infer(text: str) -> bytes:
    """Return a request whose shape and data are written by hand."""
    return f'{{"inputs": [{{"name": "features", "datatype": "FP32", {text}}}]}}'.encode()


ROW = f'"shape": [1, {WIDTH}]'
BODIES = {
    "empty": b"",
    "no JSON": b"\x00\x01\x02",
    "half": tensor()[:-5],
    "two": tensor() * 2,
    "a list": b"[]",
    "UTF-16": tensor().decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + tensor(),
    "invalid UTF-8": b'{"id": "\xff"}',
    "half a character, raw": b'{"id": "\xed\xa0\x80", ' + tensor()[1:],
    "half a character, escaped": b'{"id": "\\ud800", ' + tensor()[1:],
    "half a character in a name": tensor(name="\ud800"),
    "half a character in a key": b'{"\\ud800": 1}',
    "half a character twice": b'{"\\ud800": 1, "\\ud800": 2}',
    "nested too deep": b"[" * 60_000,
    "objects nested too deep": b'{"a":' * 10_000,
    "deep data": infer(f'{ROW}, "data": {"[" * 900 + "]" * 900}'),
    "NaN": infer(f'{ROW}, "data": [NaN, 1, 2]'),
    "NaN where nobody looks": b'{"x": NaN, ' + tensor()[1:],
    "Infinity": infer(f'{ROW}, "data": [1, -Infinity, 2]'),
    "1e400": infer(f'{ROW}, "data": [1e400, 1, 2]'),
    "number of 5,000 digits": infer(f'{ROW}, "data": [{"9" * 5_000}, 1, 2]'),
    "shape of 5,000 digits": infer(f'"shape": [{"9" * 4_000}, {WIDTH}], "data": []'),
    "overflowing shape": infer('"shape": [4611686018427387904, 4], "data": []'),
    "negative shape": infer(f'"shape": [-1, {WIDTH}], "data": [1, 2, 3]'),
    "two negatives": infer('"shape": [-1, -3], "data": [1, 2, 3]'),
    "batch of 0": infer(f'"shape": [0, {WIDTH}], "data": []'),
    "boolean shape": infer(f'"shape": [true, {WIDTH}], "data": [1, 2, 3]'),
    "fractional shape": infer(f'"shape": [1.0, {WIDTH}], "data": [1, 2, 3]'),
    "shape and data differ": infer(f'"shape": [2, {WIDTH}], "data": [1, 2, 3]'),
    "too many rows": tensor(rows=9),
    "strings": infer(f'{ROW}, "data": ["1", "2", "3"]'),
    "nulls": infer(f'{ROW}, "data": [null, 1, 2]'),
    "no inputs": b'{"inputs": []}',
    "missing inputs": b"{}",
    "inputs twice": json.dumps({"inputs": infer_body()["inputs"] * 2}).encode(),
    "input of another name": tensor(name="../features"),
    "wrong type": tensor(datatype="BYTES"),
    "an id of 1 MiB": json.dumps({**infer_body(), "id": "x" * 2**20}).encode(),
    "a longish id": json.dumps({**infer_body(), "id": "x" * 257}).encode(),
    "an id that is none": json.dumps({**infer_body(), "id": 7}).encode(),
    "outputs that are none": json.dumps({**infer_body(), "outputs": 7}).encode(),
    "outputs twice": json.dumps({**infer_body(), "outputs": [{"name": "scores"}] * 2}).encode(),
    "unknown output": json.dumps({**infer_body(), "outputs": [None]}).encode(),
    "parameters that are none": json.dumps({**infer_body(), "parameters": []}).encode(),
    "flag that is none": json.dumps(
        {**infer_body(), "parameters": {"binary_data_output": "false"}}
    ).encode(),
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_body_of_an_inference_request(caller: Caller, published: Published, name: str) -> None:
    published.clear()
    answer = caller.post(INFER, BODIES[name])
    well_said(answer)
    assert answer.status in (400, 413)
    assert not published


@pytest.mark.parametrize("name", BODIES)
def test_the_same_bodies_as_events(caller: Caller, published: Published, name: str) -> None:
    published.clear()
    answer = caller.post(PREDICT, BODIES[name])
    well_said(answer)
    assert answer.status in (400, 413)
    assert not published


@pytest.mark.parametrize(
    "body",
    [b'{"id": "a", "id": "b", ' + tensor()[1:], infer(f'{ROW}, {ROW}, "data": [1, 2, 3]')],
)
def test_of_a_key_that_comes_twice_the_last_counts(caller: Caller, body: bytes) -> None:
    answer = caller.post(INFER, body)
    assert answer.status == 200
    assert answer.json().get("id", "b") == "b"


EVENT = {
    "event_id": "e1",
    "pump_id": "p1",
    "event_time": 1_700_000_000_000,
    "vibration": 1.0,
    "pressure": 50.0,
    "temperature": 70.0,
}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"pump_id": "p\x00' OR 1=1 <b>\n"}, 200),
        ({"event_id": "x" * 10_000}, 200),
        ({"vibration": -0.0, "temperature": 5e-324}, 200),
        ({"of_the_caller": {"deep": [1, {"er": None}]}}, 200),
        ({"features": 7}, 200),
        ({"event_time": -(2**63)}, 200),
        ({"event_time": 2**63 - 1}, 200),
        ({"event_time": 2**63}, 400),
        ({"event_time": "never"}, 400),
        ({"vibration": 1e39}, 400),
        ({"vibration": 10**400}, 400),
        ({"vibration": "1.0"}, 400),
        ({"vibration": True}, 400),
        ({"vibration": None}, 400),
        ({"pressure": 100.001}, 400),
        ({"pump_id": "\ud800"}, 400),
        ({"event_id": None}, 400),
    ],
)
def test_odd_events(caller: Caller, changes: dict[str, Any], status: int) -> None:
    answer = caller.post(PREDICT, json.dumps(EVENT | changes).encode())
    assert answer.status == status, answer.body
    if status != 200:
        well_said(answer)


@pytest.mark.parametrize("id_", ["\ud800", "x" * 257, 7, None, ["a"], {}])
def test_id_that_cannot_be_part_of_a_record(caller: Caller, id_: Any) -> None:
    body = json.dumps({"features": [1] * WIDTH, "event_id": id_}).encode()
    answer = caller.post(PREDICT, body)
    assert (answer.status, answer.json()["field"]) == (400, "event_id")


@pytest.mark.parametrize(
    ("length", "field"),
    [
        ("-1", protocol.HEADER_LENGTH),
        ("1e1", protocol.HEADER_LENGTH),
        ("", protocol.HEADER_LENGTH),
        ("²", protocol.HEADER_LENGTH),
        ("9" * 5_000, protocol.HEADER_LENGTH),
        ("{more}", protocol.HEADER_LENGTH),
        ("0", None),
        ("{less}", None),
    ],
)
def test_header_that_does_not_say_where_json_ends(
    caller: Caller, length: str, field: str | None
) -> None:
    body = tensor()
    number = length.format(more=len(body) + 1, less=len(body) - 1)
    answer = caller.post(INFER, body, f"{protocol.HEADER_LENGTH}: {number}")
    well_said(answer)
    assert (answer.status, answer.json()["field"]) == (400, field)


@pytest.mark.parametrize("size", [-12, 0, 8, 16, 12.0, "12", True, 2**31, 2**70, None])
def test_binary_tensor_that_is_not_what_it_says(caller: Caller, size: Any) -> None:
    """Among them a claim of 2 GiB with 12 bytes sent."""
    body = infer_body(rows=1, parameters={"binary_data_size": size})
    del body["inputs"][0]["data"]
    head = json.dumps(body).encode()
    raw = np.zeros(WIDTH, "<f4").tobytes()
    answer = caller.post(INFER, head + raw, f"{protocol.HEADER_LENGTH}: {len(head)}")
    well_said(answer)
    field = "inputs[0].parameters.binary_data_size"
    assert (answer.status, answer.json()["field"]) == (400, field)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_binary_numbers_that_are_not_finite(caller: Caller, value: float) -> None:
    body = infer_body(rows=1, parameters={"binary_data_size": 4 * WIDTH})
    del body["inputs"][0]["data"]
    head = json.dumps(body).encode()
    raw = np.array([0.0, value, 0.0], "<f4").tobytes()
    answer = caller.post(INFER, head + raw, f"{protocol.HEADER_LENGTH}: {len(head)}")
    assert (answer.status, answer.json()["field"]) == (400, "features[1]")


@pytest.mark.parametrize(
    ("name", "field", "got"),
    [
        ("inputs twice", "inputs", "2 entries"),
        ("a longish id", "id", "257 characters"),
        ("no inputs", "inputs", "[]"),
    ],
)
def test_breach_of_a_bound_tells_what_came(caller: Caller, name: str, field: str, got: str) -> None:
    answer = caller.post(INFER, BODIES[name])
    assert (answer.status, answer.json()["field"], answer.json()["got"]) == (400, field, got)


def test_text_that_is_no_utf_8_is_refused_in_a_field_that_nobody_reads(caller: Caller) -> None:
    body = tensor()[:-1] + b', "comment": "\xff"}'
    answer = caller.post(INFER, body)
    assert answer.status == 400


def test_breach_of_a_bound_before_bytes_that_are_no_json_is_refused(caller: Caller) -> None:
    answer = caller.post(INFER, tensor(name="x" * 10)[:-1] + b', "id": "' + b"x" * 300 + b'", }')
    assert answer.status == 400
    answer = caller.post(INFER, b'{"id": "' + b"x" * 300 + b'", ')
    assert (answer.status, answer.json()["got"]) == (400, "invalid JSON")
