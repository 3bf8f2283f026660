"""The registry client against a server that answers as a registry does on its bad days."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_schemas.errors import (
    ConfigError,
    RegistryUnavailable,
    SchemaError,
    SchemaIncompatible,
)

SCHEMA = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}'
Answer = tuple[int, bytes]
NOT_FOUND = {"error_code": 40403, "message": "Schema not found."}


def answer(status: int, body: object) -> Answer:
    return status, json.dumps(body).encode()


class FakeRegistry:
    """An HTTP server whose answers a test sets by "METHOD path"."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {
            "GET /config": answer(200, {"compatibilityLevel": "NONE"}),
            "GET /schemas/ids/7": answer(200, {"schema": SCHEMA}),
        }
        self.missing = answer(404, NOT_FOUND)
        self.asked: list[str] = []
        self.released = threading.Event()
        self.released.set()
        self.authorization: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                outer.authorization = self.headers["Authorization"]
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                key = f"{self.command} {self.path.partition('?')[0].removeprefix('/api')}"
                outer.asked.append(key)
                outer.released.wait(10)
                status, body = outer.answers.get(key, outer.missing)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = _serve

            def log_message(self, format: str, *args: object) -> None:
                pass

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:  # the client gave up, as it should
                    self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/api"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    fake = FakeRegistry()
    yield fake
    fake.close()


@pytest.fixture
def clock() -> list[float]:
    return [100.0]


@pytest.fixture
def client(server: FakeRegistry, clock: list[float]) -> RegistryClient:
    settings = RegistrySettings(url=server.url, timeout_s=2.0)
    return RegistryClient(settings, clock=lambda: clock[0])


def test_schema_is_asked_for_once(server, client) -> None:
    assert [client.schema_text(7) for _ in range(3)] == [SCHEMA] * 3
    assert server.asked == ["GET /schemas/ids/7"]


def test_cache_is_bounded(server) -> None:
    for i in range(10):
        server.answers[f"GET /schemas/ids/{i}"] = answer(200, {"schema": SCHEMA})
    client = RegistryClient(RegistrySettings(url=server.url, cached_schemas=4))
    for i in range(10):
        client.schema_text(i)
    client.schema_text(9)
    assert len(server.asked) == 10
    client.schema_text(0)
    assert len(server.asked) == 11


def test_unknown_id_is_a_schema_error_and_remembered_for_a_while(server, client, clock) -> None:
    for _ in range(3):
        with pytest.raises(SchemaError) as caught:
            client.schema_text(9)
        assert caught.value.schema_id == 9
    assert server.asked.count("GET /schemas/ids/9") == 1
    clock[0] += 5.1
    server.answers["GET /schemas/ids/9"] = answer(200, {"schema": SCHEMA})
    assert client.schema_text(9) == SCHEMA


@pytest.mark.parametrize(
    "bad",
    [
        answer(404, {"title": "Could not find resource", "status": 404}),  # starting
        (404, b""),
        (404, b"<html>no such page</html>"),
        answer(404, {"error_code": 40401, "message": "Subject not found."}),
        answer(500, {"error_code": 50001, "message": "backend"}),
        (503, b"starting"),
        (429, b""),
        (200, b"<html>a proxy</html>"),
        (200, b"{}"),
        (200, b""),
        (200, b"[]"),
        (302, b""),
    ],
)
def test_anything_but_a_registry_verdict_is_an_outage(server, client, bad: Answer) -> None:
    server.answers["GET /schemas/ids/7"] = bad
    with pytest.raises(RegistryUnavailable):
        client.schema_text(7)
    server.answers["GET /schemas/ids/7"] = answer(200, {"schema": SCHEMA})
    assert client.schema_text(7) == SCHEMA  # nothing bad was remembered


def test_unknown_id_from_a_registry_that_is_not_ready_is_an_outage(server, client) -> None:
    server.answers["GET /config"] = (500, b"")
    with pytest.raises(RegistryUnavailable, match="not ready"):
        client.schema_text(9)


def test_hanging_registry_costs_the_timeout_and_no_more(server) -> None:
    client = RegistryClient(RegistrySettings(url=server.url, timeout_s=0.2))
    server.released.clear()
    started = time.monotonic()
    with pytest.raises(RegistryUnavailable):
        client.schema_text(7)
    assert not client.ready()
    assert time.monotonic() - started < 1.5


def test_absent_registry_is_an_outage() -> None:
    client = RegistryClient(RegistrySettings(url="http://127.0.0.1:9/api", timeout_s=0.5))
    with pytest.raises(RegistryUnavailable):
        client.schema_text(7)
    assert not client.ready()


@pytest.mark.parametrize(
    "body",
    [
        {"schema": "{}", "schemaType": "JSON"},
        {"schema": 'syntax = "proto3";', "schemaType": "PROTOBUF"},
        {"schema": SCHEMA, "references": [{"name": "a", "subject": "b", "version": 1}]},
    ],
)
def test_schema_that_is_not_avro_by_itself_is_a_schema_error(server, client, body) -> None:
    server.answers["GET /schemas/ids/7"] = answer(200, body)
    with pytest.raises(SchemaError):
        client.schema_text(7)


def test_registering_twice_gives_the_same_id(server, client) -> None:
    server.answers["POST /subjects/s-value/versions"] = answer(200, {"id": 3})
    assert client.register("s-value", SCHEMA) == 3
    found = {"subject": "s-value", "version": 1, "id": 3, "schema": SCHEMA}
    server.answers["POST /subjects/s-value"] = answer(200, found)
    assert client.register("s-value", SCHEMA) == 3
    assert client.registered_id("s-value", SCHEMA) == 3


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (answer(409, {"error_code": 409, "message": "Incompatible"}), SchemaIncompatible),
        (answer(422, {"error_code": 42201, "message": "Invalid"}), ConfigError),
        (answer(500, {}), RegistryUnavailable),
        (answer(404, {}), RegistryUnavailable),
        (answer(401, {}), ConfigError),
    ],
)
def test_refused_registration(server, client, bad: Answer, error: type[Exception]) -> None:
    server.answers["POST /subjects/s-value/versions"] = bad
    with pytest.raises(error, match="s-value"):
        client.register("s-value", SCHEMA)


def test_levels_are_read_and_set(server, client) -> None:
    server.missing = answer(404, {"error_code": 40401, "message": "Subject not found."})
    assert client.compatibility("s-value") is None
    assert client.is_compatible("s-value", SCHEMA)
    server.answers["PUT /config/s-value"] = answer(200, {"compatibility": "BACKWARD"})
    client.set_compatibility("s-value", "BACKWARD")
    server.answers["GET /config/s-value"] = answer(200, {"compatibilityLevel": "BACKWARD"})
    assert client.compatibility("s-value") == "BACKWARD"
    checked = "POST /compatibility/subjects/s-value/versions/latest"
    server.answers[checked] = answer(200, {"is_compatible": False})
    assert not client.is_compatible("s-value", SCHEMA)


def test_ready_means_an_answer_from_storage(server, client) -> None:
    assert client.ready()
    server.answers["GET /config"] = (404, b"")
    assert not client.ready()


def test_credentials_are_sent_and_a_refusal_is_a_configuration_error(server) -> None:
    settings = RegistrySettings.model_validate(
        {"url": server.url, "username": "u", "password": "p"}
    )
    assert "p'" not in repr(settings)
    client = RegistryClient(settings)
    client.schema_text(7)
    assert server.authorization == "Basic dTpw"
    server.answers["GET /schemas/ids/8"] = (401, b"")
    with pytest.raises(ConfigError, match="credentials"):
        client.schema_text(8)


@pytest.mark.parametrize("url", ["", "registry:8081", "ftp://registry"])
def test_address_that_is_none_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match=r"registry\.url"):
        RegistryClient(RegistrySettings(url=url))


def test_client_is_shared_by_threads(server, client) -> None:
    failures: list[BaseException] = []

    def work(read: Callable[[int], str]) -> None:
        try:
            for _ in range(50):
                assert read(7) == SCHEMA
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(client.schema_text,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert failures == []
