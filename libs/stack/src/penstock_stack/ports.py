"""Whether ports are free, and who holds them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable

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
