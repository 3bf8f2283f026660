"""Processes of a stack: start them, recognise them later, end all of them.

A process is known by pid, start time and boot, so that a reused pid is never taken for ours. Each
child carries the stack's data directory in its environment; its children inherit it, which is how
leftovers (Ray's workers, Triton's stubs) are found after a kill -9 of their parents.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from penstock_stack.component import Launch

STACK_MARKER: Final = "PENSTOCK_STACK"
COMPONENT_MARKER: Final = "PENSTOCK_COMPONENT"
NO_TELEMETRY: Final = {
    "DO_NOT_TRACK": "1",
    "FEAST_USAGE": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Set for every child: nothing here reports to anybody."""
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, for good.

    Parameters
    ----------
    pid
        Process id.
    start_ticks
        Start time in clock ticks since boot: exact, unlike a wall-clock time.
    boot_id
        The kernel's id of this boot.
    """

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Return the identity of a live process, or None."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2]
            state, start_ticks = fields.split()[0], int(fields.split()[19])
        except OSError:
            return None
        return None if state in "ZX" else cls(pid, start_ticks, _boot_id())

    @property
    def is_alive(self) -> bool:
        """Whether that very process still runs; a zombie does not."""
        return ProcessIdentity.of(self.pid) == self


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def spawn(launch: Launch, log: Path, data_dir: Path, component: str) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, output appended to ``log``.

    The child writes the file itself: it outlives its supervisor, and a pipe would not.
    """
    environment = {
        **os.environ,
        **NO_TELEMETRY,
        **launch.environment,
        STACK_MARKER: str(data_dir),
        COMPONENT_MARKER: component,
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            launch.argv,
            env=environment,
            cwd=launch.directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def marked(data_dir: Path, component: str | None = None) -> list[ProcessIdentity]:
    """Return the live processes of a stack, or of one component, other than this one.

    Only this user's processes can be looked at; the stack runs as one user.
    """
    wanted = {f"{STACK_MARKER}={data_dir}".encode()}
    if component is not None:
        wanted.add(f"{COMPONENT_MARKER}={component}".encode())
    found = []
    for pid in psutil.pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if pid != os.getpid() and wanted <= set(environment.split(b"\0")):
            identity = ProcessIdentity.of(pid)
            if identity is not None:
                found.append(identity)
    return found


def pids(data_dir: Path) -> set[int]:
    """Return the process ids of a stack's live processes, other than this one."""
    return {identity.pid for identity in marked(data_dir)}


def send(identities: Iterable[ProcessIdentity], number: signal.Signals) -> None:
    """Send a signal to those that are still alive."""
    for identity in identities:
        if identity.is_alive:
            try:
                os.kill(identity.pid, number)
            except ProcessLookupError:
                continue


def wait_gone(identities: Iterable[ProcessIdentity], timeout_s: float) -> list[ProcessIdentity]:
    """Wait until all have ended; return those that have not after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    left = [identity for identity in identities if identity.is_alive]
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = [identity for identity in left if identity.is_alive]
    return left


def sweep(data_dir: Path, component: str | None = None, grace_s: float = 0.0) -> int:
    """End every process of a stack or of one component; return how many had to be killed.

    Repeats until none is found, since a dying parent may still have started one.
    """
    killed = 0
    for _ in range(5):
        found = marked(data_dir, component)
        if not found:
            break
        if grace_s > 0:
            send(found, signal.SIGTERM)
            found = wait_gone(found, grace_s)
            grace_s = 0.0
        killed += len(found)
        send(found, signal.SIGKILL)
        wait_gone(found, 2.0)
    return killed
