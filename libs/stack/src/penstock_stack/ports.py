"""Whether ports are free, and who holds them."""

from __future__ import annotations

import socket
from collections.abc import Iterable

import psutil
from penstock_schemas.errors import ConfigError

from penstock_stack.endpoints import HOST, Endpoints


def is_free(port: int) -> bool:
    """Say whether this process could listen on a local port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Name the process that listens on a port, as far as this user may know."""
    for connection in psutil.net_connections("inet"):
        if connection.laddr and connection.laddr.port == port and connection.pid:
            try:
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.Error:
                return f"pid {connection.pid}"
    return "another process"


def taken(names: Iterable[str], endpoints: Endpoints) -> list[str]:
    """Return one sentence for each port that is not free, with the setting to change."""
    return [
        f"port {endpoints.port(name)} (PENSTOCK_{name}_PORT) is taken by "
        f"{holder(endpoints.port(name))}"
        for name in names
        if not is_free(endpoints.port(name))
    ]


def require_free(names: Iterable[str], endpoints: Endpoints) -> None:
    """Refuse to go on with a taken port.

    Raises
    ------
    ConfigError
        Names every taken port, its holder and the setting.
    """
    problems = taken(names, endpoints)
    if problems:
        raise ConfigError("; ".join(problems) + "; free it, change it, or give --port-offset")
