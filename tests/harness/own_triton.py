"""A model server of a test's own, which it may kill; and a world of services on it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import psutil
from harness.machine import taken
from harness.waiting import eventually
from penstock_stack.endpoints import HOST, PUBLIC_PORTS

START_S: Final = 90.0
STOP_S: Final = 60.0
OFFSETS: Final = range(11_000, 15_000, 130)
STUB: Final = "triton_python_backend_stub"


class OwnTriton:
    """A model server of the test's own, started anew by its supervisor when it dies."""

    def __init__(self, folder: Path) -> None:
        names = ("TRITON", "TRITON_GRPC", "TRITON_METRICS")
        self.offset = next(
            o for o in OFFSETS if not any(taken(PUBLIC_PORTS[name] + o) for name in names)
        )
        self.models_dir = folder / "models"
        command = [sys.executable, "-m", "penstock_stack", str(folder), str(self.offset), "triton"]
        with (folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        eventually(lambda: taken(PUBLIC_PORTS["TRITON_GRPC"] + self.offset), START_S, "it is up")

    @property
    def grpc(self) -> str:
        """host:port."""
        return f"{HOST}:{PUBLIC_PORTS['TRITON_GRPC'] + self.offset}"

    def pids(self, name: str) -> list[int]:
        """Return the server's processes of a name."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return [p.pid for p in family if p.name().startswith(name[:15])]

    def close(self) -> None:
        """End it and all that it started."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        finally:
            for process in family:
                if process.is_running():
                    process.kill()
