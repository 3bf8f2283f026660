"""References by plain HTTP, from a server of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from penstock_drift.references import References, TrackingServer, TrackingUnavailable
from penstock_monitoring.reference import make_reference

REFERENCE = make_reference(["a"], np.arange(100.0)[:, None], np.linspace(0, 1, 100))


class Answers(ThreadingHTTPServer):
    """Answers as a tracking server does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.status = 200
        self.versions = {("m", "1"): "run1"}
        self.files = {("run1", "reference.json"): REFERENCE.to_json().encode()}


class Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.asked.append(parts.path)
        body: bytes | None = None
        if parts.path.endswith("/model-versions/get"):
            run = self.server.versions.get((query["name"], query["version"]))
            body = run and json.dumps({"model_version": {"run_id": run}}).encode()  # type: ignore[assignment]
        elif parts.path == "/get-artifact":
            body = self.server.files.get((query["run_uuid"], query["path"]))
        status = self.server.status if body else 404
        self.send_response(status if self.server.status == 200 else self.server.status)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test quiet."""


@pytest.fixture
def server() -> Iterator[Answers]:
    made = Answers()
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def references(server: Answers) -> References:
    return References(TrackingServer(f"http://127.0.0.1:{server.server_address[1]}", 2.0))


def test_reference_of_a_version_is_read_once(server: Answers, references: References) -> None:
    references.load("m", "1")
    references.load("m", "1")
    assert references.of("m", "1") == REFERENCE
    assert len(server.asked) == 2


def test_no_version_no_reference(references: References) -> None:
    references.load("m", "2")
    assert references.of("m", "2") is None


def test_no_artifact_no_reference(server: Answers, references: References) -> None:
    server.files.clear()
    references.load("m", "1")
    assert references.of("m", "1") is None


def test_an_artifact_that_is_none_of_ours_is_no_reference(
    server: Answers, references: References
) -> None:
    server.files["run1", "reference.json"] = b"[]"
    references.load("m", "1")
    assert references.of("m", "1") is None


def test_server_with_an_error_is_away(server: Answers, references: References) -> None:
    server.status = 503
    with pytest.raises(TrackingUnavailable, match="503"):
        references.load("m", "1")
    server.status = 200
    references.load("m", "1")
    assert references.of("m", "1") == REFERENCE


def test_no_server_is_away() -> None:
    references = References(TrackingServer("http://127.0.0.1:1", 1.0))
    with pytest.raises(TrackingUnavailable):
        references.load("m", "1")
