"""A virtual environment per peer, made once by uv and kept under .penstock/bench/peers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final

INSTALL_S: Final = 300.0
SHARED: Final = ("fastavro", "onnxruntime", "numpy")
"""What every script needs besides its framework: the very versions of our own environment."""
FRAMEWORKS: Final[dict[str, tuple[str, ...]]] = {
    "quix": ("quixstreams==3.28.1",),
    # aiokafka reads no lz4 without cramjam.
    "faust": ("faust-streaming==0.15.3", "aiokafka==0.14.0", "cramjam"),
    "bytewax": ("bytewax==0.21.1",),
    "faststream": ("faststream[confluent]==0.7.8",),
    "pathway": ("pathway==0.33.0",),
}
WITH_OUR_CLIENT: Final = ("bytewax", "faststream", "faust")
"""Those that leave the version of confluent-kafka open."""


class NoEnvironment(Exception):
    """A peer cannot be had here; the message says why."""


def requirements(peer: str) -> list[str]:
    """Return what a peer's environment holds.

    Examples
    --------
    >>> "quixstreams==3.28.1" in requirements("quix")
    True
    """
    shared = [*SHARED, *(("confluent-kafka",) if peer in WITH_OUR_CLIENT else ())]
    return [*FRAMEWORKS[peer], *(f"{name}=={version(name)}" for name in shared)]


def interpreter(peer: str, folder: Path) -> Path:
    """Return the interpreter of a peer's environment; make the environment if it is not there.

    Raises
    ------
    NoEnvironment
        If it cannot be made: no uv, no package index, no wheel for this Python.
    """
    home = folder / peer
    python, complete = home / "bin" / "python", home / "complete.json"
    wanted = json.dumps([sys.version_info[:2], requirements(peer)])
    if complete.is_file() and complete.read_text(encoding="utf-8") == wanted:
        return python
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        raise NoEnvironment("there is no uv")
    shutil.rmtree(home, ignore_errors=True)
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(home)])
    _run([uv, "pip", "install", "--quiet", "--python", str(python), *requirements(peer)])
    complete.write_text(wanted, encoding="utf-8")
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise NoEnvironment(f"not installed within {INSTALL_S:.0f} s") from exc
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NoEnvironment(lines[-1].strip())


def release(peer: str) -> str:
    """Return a peer's name and release, as the table prints it."""
    return FRAMEWORKS[peer][0].replace("==", " ")
