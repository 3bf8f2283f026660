"""What bounds a request: its deadline, its body, its rows, and callers that go away."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from harness.clients import Answer, Caller, call, read_answer, serving
from harness.inference import FakeLink, Published, gateway, infer_body, mean_score
from harness.waiting import eventually
from penstock_inference.metrics import InferenceFamilies
from penstock_inference.model_server import Matrix
from penstock_inference.scoring import Scored
from penstock_inference.traffic_split import Route

INFER = "/v2/models/tiny/infer"
BODY = json.dumps(infer_body()).encode()
LIMIT = 4_096


class HeldLink(FakeLink):
    """A model that answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_held = True
        self.asked = 0

    async def score(self, route: Route, matrix: Matrix) -> Scored:
        self.asked += 1
        while self.is_held:
            await asyncio.sleep(0.005)
        return Scored(route, mean_score(matrix))


@pytest.fixture
def link() -> HeldLink:
    return HeldLink()


LIMITS: dict[str, Any] = {
    "max_body_bytes": LIMIT, "body_timeout_s": 20.0, "max_timeout_s": 20.0, "max_in_flight": 3,
    "max_in_flight_rows": 8,
}  # fmt: skip


@pytest.fixture
def caller(link: HeldLink, families: InferenceFamilies) -> Iterator[Caller]:
    with serving(gateway(link, Published(), families, **LIMITS)) as made:
        yield made
        link.is_held = False


@pytest.fixture
def impatient(link: HeldLink, families: InferenceFamilies) -> Iterator[Caller]:
    times = {"body_timeout_s": 0.3, "max_timeout_s": 0.5}
    with serving(gateway(link, Published(), families, **(LIMITS | times))) as made:
        yield made
        link.is_held = False


@pytest.fixture(scope="module")
def answered() -> Iterator[Caller]:
    """A gateway whose model answers at once."""
    with serving(gateway(FakeLink(), Published(), **LIMITS)) as made:
        yield made


def error(answer: Answer) -> str:
    text = answer.json()["error"]
    assert isinstance(text, str)
    return text


def send(caller: Caller, body: bytes = BODY) -> socket.socket:
    """Send a request and leave its answer for later."""
    connection = caller.connect()
    head = f"POST {INFER} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize("header", [["Request-Timeout-Ms: 100"], []])
def test_deadline_is_the_callers_and_has_a_cap(impatient: Caller, header: list[str]) -> None:
    assert impatient.post(INFER, BODY, *header).status == 504
    assert impatient.post("/predict/tiny", b'{"amount": 1}', *header).status == 504


def test_deadline_in_the_protocols_own_parameter(caller: Caller, link: HeldLink) -> None:
    late = json.dumps({**infer_body(), "parameters": {"timeout": 50_000}}).encode()
    answer = caller.post(INFER, late)
    assert (answer.status, error(answer)) == (504, "the request's deadline has passed")
    link.is_held = False
    for none in (0, 10**12):
        body = json.dumps({**infer_body(), "parameters": {"timeout": none}}).encode()
        assert caller.post(INFER, body).status == 200


@pytest.mark.parametrize("text", ["0", "-1", "1e3", "nan", "", "9" * 30, "²", "soon"])
def test_deadline_that_is_none_is_named(answered: Caller, text: str) -> None:
    answer = answered.post(INFER, BODY, f"Request-Timeout-Ms: {text}")
    assert (answer.status, answer.json()["field"]) == (400, "Request-Timeout-Ms")


@pytest.mark.parametrize("value", [-1, 1.5, True, "1", 10**16, [], {}])
def test_parameter_timeout_that_is_none_is_named(answered: Caller, value: Any) -> None:
    body = json.dumps({**infer_body(), "parameters": {"timeout": value}}).encode()
    answer = answered.post(INFER, body)
    assert (answer.status, answer.json()["field"]) == (400, "parameters.timeout")


def test_rows_beyond_the_limit_are_told_to_come_back(caller: Caller, link: HeldLink) -> None:
    six = json.dumps(infer_body(rows=6)).encode()
    with send(caller, six) as held:
        eventually(lambda: link.asked == 1, 5.0, every_s=0.005)
        refused = caller.post(INFER, six)
        assert (refused.status, int(refused.headers["retry-after"]) > 0) == (429, True)
        link.is_held = False
        assert read_answer(held).status == 200
    assert caller.post(INFER, six).status == 200, "what was held is free again"


def test_caller_that_has_gone_leaves_its_place(
    caller: Caller, link: HeldLink, families: InferenceFamilies
) -> None:
    gone = [send(caller) for _ in range(3)]
    eventually(lambda: link.asked == 3, 5.0, every_s=0.005)
    assert caller.post(INFER, BODY).status == 429
    for connection in gone:
        connection.close()
    link.is_held = False
    eventually(lambda: caller.post(INFER, BODY).status == 200, 5.0, every_s=0.01)


def test_request_that_is_cancelled_leaves_its_place(
    link: HeldLink, families: InferenceFamilies
) -> None:
    """So a caller's going is told where the server behind the socket is another process."""

    async def run() -> int:
        app = gateway(link, Published(), families, max_in_flight=1, max_in_flight_rows=8)
        task = asyncio.create_task(call(app, "POST", INFER, body=BODY))
        while not link.asked:
            await asyncio.sleep(0)
        assert (await call(app, "POST", INFER, body=BODY)).status == 429
        task.cancel()
        await asyncio.wait([task])
        link.is_held = False
        return (await call(app, "POST", INFER, body=BODY)).status

    assert asyncio.run(run()) == 200
    assert families.requests.labels("", "infer", "499")._value.get() == 1


def test_body_that_stops_halfway(impatient: Caller, families: InferenceFamilies) -> None:
    with send(impatient, BODY) as connection:
        connection.close()
    head = f"POST {INFER} HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nabc"
    with impatient.connect() as connection:
        connection.sendall(head.encode())
        assert read_answer(connection).status == 408, "it never comes"
    with impatient.connect() as connection:
        connection.sendall(head.encode())
    gone = families.requests.labels("", "infer", "499")
    eventually(lambda: gone._value.get() >= 1, 5.0, every_s=0.01)


def test_body_that_drips_is_late_though_it_never_stops(impatient: Caller) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    with impatient.connect() as connection:
        connection.sendall(head.encode())
        connection.settimeout(0.02)
        for _ in range(500):
            connection.sendall(b"1\r\n \r\n")
            try:
                answer = connection.recv(65_536)
                break
            except TimeoutError:
                continue
        assert b" 408 " in answer.partition(b"\r\n")[0]


def test_two_gigabytes_claimed_are_refused_unread(answered: Caller) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: test\r\nContent-Length: {2**31}\r\n\r\n"
    assert answered.raw(head.encode() + b"0123456789").status == 413


def test_chunked_body_beyond_the_limit(answered: Caller) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"400\r\n" + b" " * 1_024 + b"\r\n"
    assert answered.raw(head.encode() + 5 * chunk + b"0\r\n\r\n").status == 413


def test_packed_bodies(answered: Caller) -> None:
    assert answered.post(INFER, gzip.compress(BODY), "Content-Encoding: gzip").status == 200
    assert answered.post(INFER, zlib.compress(BODY), "Content-Encoding: deflate").status == 200
    bomb = gzip.compress(b" " * 50 * 2**20)
    for encoding, body, status in (
        ("gzip", bomb[:LIMIT], 413),
        ("gzip", gzip.compress(b" " * (LIMIT + 1)), 413),
        ("gzip", b"no gzip", 400),
        ("gzip", gzip.compress(BODY)[:-9], 400),
        ("gzip", gzip.compress(BODY) + b"x", 400),
        ("br", BODY, 415),
        ("gzip, gzip", BODY, 415),
    ):
        assert answered.post(INFER, body, f"Content-Encoding: {encoding}").status == status


@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=UTF-8", 200),
        ("application/octet-stream", 200),
        ("application/x-www-form-urlencoded", 200),
        ("application/json; charset=utf-16", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/xml", 415),
        ("image/png", 415),
        ("/", 415),
    ],
)
def test_media_types(answered: Caller, media_type: str, status: int) -> None:
    answer = answered.post(INFER, BODY, f"Content-Type: {media_type}")
    assert answer.status == status
    assert status == 200 or error(answer)


def test_defect_of_ours_is_told_as_one(
    caller: Caller, link: HeldLink, caplog: pytest.LogCaptureFixture
) -> None:
    async def defective(route: Route, matrix: Matrix) -> Scored:
        raise ZeroDivisionError("secret detail")

    link.score = defective  # type: ignore[method-assign]
    answer = caller.post(INFER, BODY)
    assert (answer.status, error(answer)) == (500, "the gateway failed on this request")
    assert "ZeroDivisionError" in caplog.text
    assert b"secret" not in answer.body
