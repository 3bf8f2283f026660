"""Misconfigurations found before they bite. Each finding names the setting and the fix."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from ctypes import CDLL
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psutil
from penstock_schemas.errors import ConfigError

from penstock_stack import processes
from penstock_stack.component import Component, StackConfig
from penstock_stack.endpoints import taken
from penstock_stack.ray_head import ray_temp_dir
from penstock_stack.state import read_state
from penstock_stack.triton_server import find_uv, find_workspace_dir

Level = Literal["ok", "warning", "error"]
GIB: Final = 1024**3
MIN_DISK_BYTES: Final = 3 * GIB
MIN_MEMORY_BYTES: Final = 5 * GIB
SUPPORTED: Final = ((3, 11), (3, 13))
MAX_RAY_PATH: Final = 45


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Parameters
    ----------
    check
        Name of the check.
    level
        ok, warning (works, but) or error (will fail).
    message
        What was found.
    fix
        The setting to change and the next step; empty when ok.
    """

    check: str
    level: Level
    message: str
    fix: str = ""


def examine(config: StackConfig, components: Sequence[Component]) -> list[Finding]:
    """Run every check; none of them changes anything."""
    checks: list[Callable[[], Finding]] = [
        _python,
        _libpython,
        _platform,
        _uv,
        lambda: _disk("disk", config.data_dir, "--data-dir (PENSTOCK_DATA_DIR)"),
        lambda: _disk("cache disk", config.cache, "PENSTOCK_CACHE_DIR"),
        _memory,
        lambda: _ports(config, components),
        lambda: _state(config),
        lambda: _ray_path(config.data_dir),
        _model_server_folder,
    ]
    return [check() for check in checks]


def _python() -> Finding:
    version = sys.version_info[:2]
    text = ".".join(map(str, version))
    if SUPPORTED[0] <= version <= SUPPORTED[1]:
        return Finding("python", "ok", f"CPython {text}")
    return Finding(
        "python",
        "error",
        f"CPython {text} is not supported",
        "put a python3 of 3.11 to 3.13 first on PATH and run 'make install' again",
    )


def _libpython() -> Finding:
    """Triton's Python stub is linked against the shared library of the running minor version."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    directory = str(sysconfig.get_config_var("LIBDIR") or "")
    for candidate in (os.path.join(directory, name), name):
        try:
            CDLL(candidate)
        except OSError:
            continue
        return Finding("libpython", "ok", f"{candidate} can be loaded")
    return Finding(
        "libpython",
        "error",
        f"{name} is neither in {directory} nor on the loader's path",
        f"install it (package libpython{name[9:13]}) or add its folder to LD_LIBRARY_PATH",
    )


def _platform() -> Finding:
    machine = os.uname()
    text = f"{machine.sysname} {machine.machine}"
    if text == "Linux x86_64":
        return Finding("platform", "ok", text)
    return Finding("platform", "error", f"{text} is not supported", "use Linux x86_64")


def _uv() -> Finding:
    try:
        return Finding("uv", "ok", find_uv())
    except ConfigError as exc:
        return Finding("uv", "error", str(exc), "run 'make install'")


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _disk(check: str, path: Path, setting: str) -> Finding:
    where = _existing(path)
    free = shutil.disk_usage(where).free
    message = f"{free / GIB:.1f} GiB free for {path}"
    if not os.access(where, os.W_OK):
        return Finding(check, "error", f"{where} is not writable", f"choose another {setting}")
    if free < MIN_DISK_BYTES:
        need = MIN_DISK_BYTES / GIB
        return Finding(check, "error", message, f"free {need:.0f} GiB or choose another {setting}")
    return Finding(check, "ok", message)


def _memory() -> Finding:
    available = psutil.virtual_memory().available
    message = f"{available / GIB:.1f} GiB of memory available"
    if available >= MIN_MEMORY_BYTES:
        return Finding("memory", "ok", message)
    return Finding(
        "memory",
        "warning",
        message,
        f"the stack takes about {MIN_MEMORY_BYTES / GIB:.0f} GiB: end other programs first",
    )


def _ports(config: StackConfig, components: Sequence[Component]) -> Finding:
    state = read_state(config.run)
    running = {
        name for name, c in state.components.items() if c.process is not None and c.process.is_alive
    }
    names = [port for c in components if c.name not in running for port in c.ports]
    problems = taken(names, config.endpoints)
    if not problems:
        return Finding("ports", "ok", f"{len(names)} ports are free")
    return Finding(
        "ports", "error", "; ".join(problems), "free it, set that variable, or give --port-offset"
    )


def _state(config: StackConfig) -> Finding:
    try:
        state = read_state(config.run)
    except ConfigError as exc:
        return Finding("state", "error", str(exc), f"remove {config.run / 'state.json'}")
    if state.is_supervised:
        return Finding("state", "ok", f"a stack runs on {config.data_dir} ({state.phase})")
    left = len(processes.marked(config.data_dir))
    if left:
        return Finding(
            "state",
            "warning",
            f"{left} processes of a killed stack still run",
            "'penstock up' takes them over, 'penstock down' ends them",
        )
    return Finding("state", "ok", f"nothing runs on {config.data_dir}")


def _ray_path(data_dir: Path) -> Finding:
    path = ray_temp_dir(data_dir)
    if len(str(path)) > MAX_RAY_PATH:
        return Finding("ray", "error", f"{path} is too long for sockets", "set a shorter TMPDIR")
    if not os.access(path.parent, os.W_OK):
        return Finding("ray", "error", f"{path.parent} is not writable", "make it writable")
    return Finding("ray", "ok", f"sockets in {path}")


def _model_server_folder() -> Finding:
    try:
        return Finding(
            "triton", "ok", str(find_workspace_dir("triton_models", "PENSTOCK_TRITON_MODELS"))
        )
    except ConfigError as exc:
        return Finding("triton", "error", str(exc), "run in the workspace's folder")
