"""Readiness probes: each answers yes or no in about a second and never raises."""

from __future__ import annotations

import http.client
import logging
import socket
from typing import Any

from penstock_stack.endpoints import HOST

PROBE_TIMEOUT_S = 0.8
_SILENT = logging.getLogger("penstock_stack.probes.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


def tcp_open(port: int, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Return whether something accepts connections on a local port."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def http_ok(port: int, path: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Return whether ``GET path`` answers with 200."""
    return _status(port, path, timeout_s) == http.client.OK


def says_not_live(port: int, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Return whether ``GET /live`` answers 503; a late answer is no answer."""
    return _status(port, "/live", timeout_s) == http.client.SERVICE_UNAVAILABLE


def body(port: int, path: str, timeout_s: float = PROBE_TIMEOUT_S) -> bytes | None:
    """Return what ``GET path`` answers with 200; None where it does not."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read() if answer.status == http.client.OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _status(port: int, path: str, timeout_s: float) -> int | None:
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def kafka_answers(port: int, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Return whether a broker answers a metadata request."""
    if not tcp_open(port, timeout_s):
        return False
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    settings: dict[str, Any] = {"bootstrap.servers": f"{HOST}:{port}", "logger": _SILENT}
    admin = AdminClient(settings)
    try:
        return bool(admin.list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return False
