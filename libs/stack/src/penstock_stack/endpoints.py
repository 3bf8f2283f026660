"""Ports of the embedded stack: names, defaults, overrides, the common offset, and who holds one.

Every port is on 127.0.0.1. The hidden ones (KRaft controller, Ray's own) shift with the rest, so
that two stacks with different offsets share a machine.
"""

from __future__ import annotations

import difflib
import re
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import psutil
from penstock_schemas.errors import ConfigError

HOST: Final = "127.0.0.1"

PUBLIC_PORTS: Final[Mapping[str, int]] = {
    "KAFKA": 9092,
    "REGISTRY": 8081,
    "TRITON": 8100,
    "TRITON_GRPC": 8101,
    "TRITON_METRICS": 8102,
    "GATEWAY": 8000,
    "RAY": 8265,
    "MLFLOW": 5000,
    "INGEST": 9101,
    "INFERENCE": 9102,
    "DRIFT": 9103,
    "RETRAIN_TRIGGER": 9104,
    "PROMETHEUS": 9090,
    "CONSOLE": 8090,
}
HIDDEN_PORTS: Final[Mapping[str, int]] = {
    "KAFKA_CONTROLLER": 9093,
    "REGISTRY_MANAGEMENT": 8082,
    "RAY_GCS": 6379,
    "RAY_NODE_MANAGER": 8266,
    "RAY_OBJECT_MANAGER": 8267,
    "RAY_AGENT": 8268,
    "RAY_AGENT_GRPC": 8269,
    "RAY_METRICS": 8270,
    "RAY_RUNTIME_ENV": 8271,
    "RAY_CLIENT": 8272,
    "RAY_WORKERS": 10100,
}
RAY_WORKER_PORTS: Final = 300
"""Ports from RAY_WORKERS on that Ray's workers may bind."""

_PORT_VARIABLE = re.compile(r"PENSTOCK_([A-Z_]+)_PORT")
_SERVICE_SETTING = re.compile(r"PENSTOCK_(INGEST|INFERENCE|DRIFT|RETRAIN_TRIGGER)_.+_PORT")
_HIGHEST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The effective port of every endpoint, by the name used in ``PENSTOCK_<NAME>_PORT``.

    Examples
    --------
    >>> endpoints = Endpoints.from_environment({"PENSTOCK_MLFLOW_PORT": "5500"}, offset=10000)
    >>> endpoints.port("MLFLOW"), endpoints.address("KAFKA")
    (15500, '127.0.0.1:19092')
    """

    ports: Mapping[str, int]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], offset: int = 0) -> Endpoints:
        """Return the ports of ``environment`` shifted by ``offset``.

        Raises
        ------
        ConfigError
            An unknown ``PENSTOCK_…_PORT``, a value that is no port, or two equal ports.
        """
        ports = {**PUBLIC_PORTS, **HIDDEN_PORTS}
        for variable, text in environment.items():
            match = _PORT_VARIABLE.fullmatch(variable)
            if match is None or _SERVICE_SETTING.fullmatch(variable):
                continue
            name = match.group(1)
            if name not in ports:
                near = difflib.get_close_matches(name, ports, n=1)
                hint = f"; did you mean PENSTOCK_{near[0]}_PORT?" if near else ""
                raise ConfigError(f"{variable} is not a setting of the stack{hint}")
            if not text.isdecimal():
                raise ConfigError(f"{variable} must be a port number, got {text!r}")
            ports[name] = int(text)
        found = cls({name: port + offset for name, port in ports.items()})
        _check(found, offset)
        return found

    def port(self, name: str) -> int:
        """Return the port called ``name``."""
        return self.ports[name]

    def span(self, name: str) -> range:
        """Return all ports of an endpoint: one, but for Ray's workers."""
        port = self.ports[name]
        return range(port, port + (RAY_WORKER_PORTS if name == "RAY_WORKERS" else 1))

    def address(self, name: str) -> str:
        """Return ``host:port``."""
        return f"{HOST}:{self.ports[name]}"

    def url(self, name: str, path: str = "") -> str:
        """Return the HTTP URL of an endpoint."""
        return f"http://{self.address(name)}{path}"


def _check(endpoints: Endpoints, offset: int) -> None:
    owner: dict[int, str] = {}
    for name, port in endpoints.ports.items():
        span = endpoints.span(name)
        if not 0 < span[0] <= span[-1] <= _HIGHEST_PORT:
            raise ConfigError(
                f"port {port} of {name} is out of range; change PENSTOCK_{name}_PORT "
                f"or --port-offset (now {offset})"
            )
        for one in span:
            if one in owner:
                raise ConfigError(
                    f"PENSTOCK_{name}_PORT and PENSTOCK_{owner[one]}_PORT both take port {one}"
                )
            owner[one] = name


def is_free(port: int) -> bool:
    """Return whether this process could listen on a local port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def holder(port: int) -> int | None:
    """Return the process that listens on a port; None where this user may not know."""
    for connection in psutil.net_connections("inet"):
        if connection.laddr and connection.laddr.port == port and connection.pid:
            return int(connection.pid)
    return None


def taken(
    names: Iterable[str], endpoints: Endpoints, own: Callable[[], Collection[int]] = tuple
) -> list[str]:
    """Return one sentence for each port that is not free, with the setting to change.

    Parameters
    ----------
    own
        Called where a port is taken: the processes that may hold it. Ray's proxy keeps the
        gateway's port while inference is away.
    """
    found = [(name, port) for name in names if not is_free(port := endpoints.port(name))]
    holders = [(name, port, holder(port)) for name, port in found]
    known = own() if found else ()
    return [
        f"port {port} (PENSTOCK_{name}_PORT) is taken by {_named(pid)}"
        for name, port, pid in holders
        if pid is None or pid not in known
    ]


def _named(pid: int | None) -> str:
    if pid is None:
        return "another process"
    try:
        return f"pid {pid} ({psutil.Process(pid).name()})"
    except psutil.Error:
        return f"pid {pid}"


def require_free(
    names: Iterable[str], endpoints: Endpoints, own: Callable[[], Collection[int]] = tuple
) -> None:
    """Refuse to go on with a taken port; parameters as of `taken`.

    Raises
    ------
    ConfigError
        Names every taken port, its holder and the setting.
    """
    problems = taken(names, endpoints, own)
    if problems:
        raise ConfigError("; ".join(problems) + "; free it, change it, or give --port-offset")
