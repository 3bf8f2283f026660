"""Requests spoilt at random: none ends in a 500, none hangs, and each answer is the document's.

PENSTOCK_TEST_SEED repeats a run; FULL=1 makes it a hundred times as long.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from harness.clients import Answer, call
from harness.inference import WIDTH, FakeLink, Published, gateway, infer_body
from harness.models import NAME, write_folder
from jsonschema import Draft202012Validator
from penstock_inference.rest import protocol
from penstock_inference.rest.event_vectors import EventVectors
from penstock_pipelines.loader import load_pipeline

CASES = 1_500 * (100 if os.environ.get("FULL") else 1)
INFER, PREDICT, INDEX = "/v2/models/{name}/infer", "/predict/{name}", "/v2/repository/index"
Request = tuple[str, dict[str, str], bytes]
"""The route, the headers, the body."""

# fmt: off
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e39, 5e-324,
    float("nan"), float("inf"), "", "features", "FP32", "1", "\x00", "\ud800", "é💩", "x" * 300,
    "../../etc/passwd", "<script>", "a\r\nb: c", [], [[]], [[[]]], [1, [2]], {}, {"name": "scores"},
]
HEADERS = [
    ("Content-Type", "application/json"), ("Content-Type", "text/html"), ("Content-Type", ";;="),
    ("Content-Encoding", "gzip"), ("Content-Encoding", "deflate"), ("Content-Encoding", "br"),
    (protocol.HEADER_LENGTH, "0"), (protocol.HEADER_LENGTH, "7"), (protocol.HEADER_LENGTH, "-7"),
    (protocol.HEADER_LENGTH, "999999999999999999999"), ("Content-Length", "2147483648"),
    ("Content-Length", "x"), ("Request-Timeout-Ms", "1000"), ("Request-Timeout-Ms", "-1"),
    ("Accept-Encoding", "gzip"), ("Expect", "nothing"), ("X-Odd", "\xff\xfe"),
]
EVENT = {
    "event_id": "e1", "pump_id": "p1", "event_time": 1_700_000_000_000, "vibration": 1.0,
    "pressure": 50.0, "temperature": 70.0,
}
# fmt: on


def good_requests() -> list[Request]:
    binary = infer_body(rows=2, parameters={"binary_data_size": 8 * WIDTH})
    del binary["inputs"][0]["data"]
    binary["outputs"] = [{"name": "scores", "parameters": {"binary_data": True}}]
    head = json.dumps(binary).encode()
    raw = np.arange(2 * WIDTH, dtype="<f4").tobytes()
    asked = {**infer_body(), "id": "r7", "parameters": {"timeout": 10**6}}
    features = {"features": [1, 2.5, 3], "event_id": "mine"}
    return [
        (INFER, {}, json.dumps(asked).encode()),
        (INFER, {protocol.HEADER_LENGTH: str(len(head))}, head + raw),
        (PREDICT, {}, json.dumps(features).encode()),
        (PREDICT, {"Content-Type": "application/json"}, json.dumps(EVENT).encode()),
        (INDEX, {}, b'{"ready": true}'),
    ]


class Spoiler:
    """Makes a request wrong, in one way or in several."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def spoilt(self, request: Request) -> Request:
        route, headers, body = request
        headers = dict(headers)
        for _ in range(self._rng.integers(1, 4)):
            way = self._rng.integers(6)
            if way <= 2:
                body = self._other_value(body)
            elif way == 3:
                body = self._other_bytes(body)
            elif way == 4:
                name, text = HEADERS[self._rng.integers(len(HEADERS))]
                headers[name] = text
            else:
                route = (INFER, PREDICT, INDEX)[self._rng.integers(3)]
        return route, headers, body

    def _other_value(self, body: bytes) -> bytes:
        """Put an odd value somewhere into the JSON, take a part out, or give it a new name."""
        try:
            document, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
        except ValueError:
            return self._other_bytes(body)
        places = list(_places(document))
        if not places:
            return json.dumps(ODD[self._rng.integers(len(ODD))]).encode()
        inside, key = places[self._rng.integers(len(places))]
        how = self._rng.integers(4)
        if how == 0:
            del inside[key]
        elif how == 1 and isinstance(inside, dict):
            inside[str(ODD[self._rng.integers(len(ODD))])] = inside.pop(key)
        else:
            inside[key] = ODD[self._rng.integers(len(ODD))]
        return json.dumps(document).encode() + body[end:]

    def _other_bytes(self, body: bytes) -> bytes:
        spoilt = bytearray(body or b"{}")
        at = int(self._rng.integers(len(spoilt)))
        how = self._rng.integers(4)
        if how == 0:
            spoilt[at] ^= 1 << int(self._rng.integers(8))
        elif how == 1:
            del spoilt[at:]
        elif how == 2:
            spoilt[at:at] = self._rng.bytes(int(self._rng.integers(1, 9)))
        else:
            spoilt[at:at] = spoilt[: int(self._rng.integers(len(spoilt) + 1))]
        return bytes(spoilt)


def _places(node: Any) -> Any:
    """Yield (container, key) of every value of a document."""
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in list(keys):
        yield node, key
        yield from _places(node[key])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    pipeline = load_pipeline(write_folder(tmp_path_factory.mktemp(NAME)))
    vectors = EventVectors(pipeline, Path("no-feast"))
    vectors.warm_up()
    return gateway(FakeLink(), Published(), vector=vectors.vector)


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    answer = asyncio.run(call(app, "GET", "/openapi.json"))
    found: dict[str, Any] = answer.json()
    return found


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    """Return the validator of a schema that refers to the document's components."""
    return Draft202012Validator(schema | {"components": document["components"]})


def check(document: dict[str, Any], route: str, answer: Answer) -> None:
    """Check an answer against what the document says of its operation."""
    told = document["paths"][route]["post"]["responses"]
    assert str(answer.status) in told, f"{answer.status} is not in the document"
    media_type = answer.headers["content-type"].partition(";")[0]
    schema = told[str(answer.status)]["content"][media_type]["schema"]
    if media_type == "application/json":
        validator(document, schema).validate(answer.json())


@pytest.mark.timeout(3_600 if os.environ.get("FULL") else 120)
def test_spoilt_requests_end_well(
    app: FastAPI, document: dict[str, Any], rng: np.random.Generator
) -> None:
    spoiler, good = Spoiler(rng), good_requests()

    async def run() -> Counter[int]:
        found: Counter[int] = Counter()
        for _ in range(CASES):
            route, headers, body = spoiler.spoilt(good[rng.integers(len(good))])
            answer = await call(app, "POST", route.format(name="tiny"), headers, body)
            assert answer.status != 500, (route, headers, body)
            check(document, route, answer)
            found[answer.status] += 1
        return found

    found = asyncio.run(run())
    print(f"answers to {CASES} spoilt requests: {dict(sorted(found.items()))}")  # noqa: T201
    assert {200, 400, 413, 415} <= set(found), "it bites, and not everything is refused"


def test_good_requests_are_the_documents_own(app: FastAPI, document: dict[str, Any]) -> None:
    for route, headers, body in good_requests():
        answer = asyncio.run(call(app, "POST", route.format(name="tiny"), headers, body))
        assert answer.status == 200, answer.body
        check(document, route, answer)
        operation = document["paths"][route]["post"]
        if protocol.HEADER_LENGTH not in headers:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            validator(document, schema).validate(json.loads(body))


def test_document_has_every_route(app: FastAPI, document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {
        "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{name}",
        "/v2/models/{name}/versions/{version}", "/v2/models/{name}/ready",
        "/v2/models/{name}/versions/{version}/ready", "/v2/models/{name}/config",
        "/v2/models/{name}/versions/{version}/config", "/v2/repository/index",
        "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer", "/predict/{name}",
    }  # fmt: skip
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            kinds = {p["in"] for p in operation.get("parameters", ())}
            assert kinds <= {"path", "header"}, "a query says nothing"
            assert operation["summary"]
            assert ("requestBody" in operation) == (method == "post")
            assert "422" not in operation["responses"], "what the framework assumes"
            assert set(operation["responses"]) - {"200"} or path in ("/v2", "/v2/health/live")
