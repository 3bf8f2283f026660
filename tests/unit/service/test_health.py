from __future__ import annotations

import http.client
import socket
from collections.abc import Callable

import pytest
from penstock_service.health import serve_health


def get(port: int, path: str, method: str = "GET") -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers["Content-Type"]
    finally:
        connection.close()


def fails() -> bool:
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("live", "ready", "expected"),
    [
        (lambda: True, lambda: True, (200, 200)),
        (lambda: True, lambda: False, (200, 503)),
        (lambda: False, lambda: False, (503, 503)),
        (fails, fails, (503, 503)),
    ],
)
def test_probes(live: Callable[[], bool], ready: Callable[[], bool], expected) -> None:
    with serve_health("127.0.0.1", 0, live, ready, lambda: b"") as port:
        assert (get(port, "/live")[0], get(port, "/ready?x=1")[0]) == expected


def test_metrics_are_served_as_prometheus_text() -> None:
    with serve_health("127.0.0.1", 0, lambda: True, lambda: True, lambda: b"a 1\n") as port:
        status, body, content_type = get(port, "/metrics")
        assert (status, body) == (200, b"a 1\n")
        assert content_type.startswith("text/plain; version=")
        assert get(port, "/metrics", "HEAD")[:2] == (200, b"")
        assert get(port, "/")[0] == 404


def test_failing_exposition_is_an_error_and_the_server_goes_on() -> None:
    def metrics() -> bytes:
        raise RuntimeError("broken")

    with serve_health("127.0.0.1", 0, lambda: True, lambda: True, metrics) as port:
        assert get(port, "/metrics")[0] == 500
        assert get(port, "/live")[0] == 200


def test_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(OSError, match=str(port)),
            serve_health("127.0.0.1", port, lambda: True, lambda: True, lambda: b""),
        ):
            pass


def test_port_is_free_after_the_context() -> None:
    with serve_health("127.0.0.1", 0, lambda: True, lambda: True, lambda: b"") as port:
        pass
    with serve_health("127.0.0.1", port, lambda: True, lambda: True, lambda: b"") as again:
        assert again == port
