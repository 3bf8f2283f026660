"""Paths that lead nowhere, methods that are none, and what is no HTTP at all."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from harness.clients import DEFINED, Caller, serving, well_said
from harness.inference import FakeLink, Published, gateway, infer_body

INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    with serving(gateway(FakeLink(), Published(), body_timeout_s=1.0)) as made:
        yield made


def tensor() -> bytes:
    return json.dumps(infer_body()).encode()


PATHS = [
    "/v2/models/..%2f..%2fetc%2fpasswd/infer",
    "/v2/models/../../etc/passwd/infer",
    "/v2/models/%2e%2e/infer",
    "/v2/models/tiny%00/infer",
    "/v2/models/%ff%fe/infer",
    "/v2/models/a:b/infer",
    "/v2/models/a%5cb/infer",
    "/v2/models/tiny%3fx/infer",
    "/v2/models/tiny%23/infer",
    "/v2/models/%f0%9f%92%a9/infer",
    "/v2/models/tiny%20/infer",
    "/v2/models/TINY/infer",
    "/v2/models//infer",
    "/v2/models/" + "x" * 8_000 + "/infer",
    "/v2/models/tiny/versions//infer",
    "/v2/models/tiny/versions/-1/infer",
    "/v2/models/tiny/versions/01/infer",
    "/v2/models/tiny/versions/1.0/infer",
    "/v2/models/tiny/versions/latest/infer",
    "/v2/models/tiny/versions/%00/infer",
    "/v2/models/tiny/versions/1/infer/",
    "/v2/models/tiny/versions/" + "9" * 5_000 + "/infer",
    "/v2/models/tiny/generate",
    "/v2/repository/models/tiny/load",
    "/v2/systemsharedmemory/region/r/register",
    "/v2/logging",
    "/predict/",
    "/predict",
    "/predict/..%2ftiny",
    "/predict/tiny/../tiny",
    "//",
    "/%",
]


@pytest.mark.parametrize("path", PATHS)
def test_path_that_leads_nowhere(caller: Caller, path: str) -> None:
    answer = caller.post(path, tensor())
    well_said(answer)
    assert answer.status == 404
    assert len(answer.body) < 1_000, "a caller's text is not repeated at length"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "GET", "BREW"])
def test_other_methods(caller: Caller, method: str) -> None:
    head = f"{method} {INFER} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n".encode()
    with caller.connect() as connection:
        connection.sendall(head)
        status = connection.recv(64).split(b" ")[1]
    # BREW is none at all: the server itself refuses it.
    assert status == (b"400" if method == "BREW" else b"405")


def test_get_routes_take_odd_names(caller: Caller) -> None:
    for path in PATHS[:14]:
        for end in ("", "/ready", "/config", "/versions/%2e%2e"):
            well_said(caller.get(path.removesuffix("/infer") + end))


@pytest.mark.parametrize(
    "head",
    [
        b"POST",
        b"POST / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # someone speaks TLS
        b"POST /predict/tiny HTTP/1.1\r\nContent-Length: -5\r\n\r\nabcde",
        b"POST /predict/tiny HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /predict/tiny HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_ends_the_connection_and_nothing_else(caller: Caller, head: bytes) -> None:
    with caller.connect() as connection:
        connection.sendall(head)
        connection.settimeout(1.0)
        try:
            said = connection.recv(65_536)
        except (TimeoutError, ConnectionResetError):
            said = b""
        assert said == b"" or int(said.split(b" ")[1]) in DEFINED
    assert caller.get("/v2/health/live").status == 200
    assert caller.post(INFER, tensor()).status == 200
