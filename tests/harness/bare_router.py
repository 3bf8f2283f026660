"""The real router as a process of its own, without Ray Serve around it.

The process runs one `Router` with the service's own settings from the environment, until SIGTERM
(exit 0) or the end of its loop (exit 1). Serve adds placement and restarts; here the test is both.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness.forked import Forked

if TYPE_CHECKING:
    from harness.figures import Figures

LOOK_S: Final = 0.1
STOP_S: Final = 15.0
PREFIX: Final = "PENSTOCK_INFERENCE_"


@dataclass(frozen=True)
class ServicePlaces:
    """Where the services of a test find their neighbours.

    Parameters
    ----------
    kafka, registry, triton_grpc
        Addresses.
    models_dir
        The model server's repository.
    """

    kafka: str
    registry: str
    triton_grpc: str
    models_dir: Path


@dataclass(eq=False)  # each is one process
class BareRouter:
    """A router process.

    Parameters
    ----------
    folder
        The pipeline's.
    run_dir
        Shared by the routers of a test: facts, metrics, journals of what was in flight.
    extra
        More variables, such as ``PENSTOCK_FAIL_POINT`` or
        ``PENSTOCK_INFERENCE_LOOP__SESSION_TIMEOUT_S``.
    """

    places: ServicePlaces
    folder: Path
    run_dir: Path
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from penstock_inference.replicas import METRICS

        metrics = self.run_dir / METRICS
        metrics.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": self.places.kafka,
            f"{PREFIX}REGISTRY__URL": self.places.registry,
            f"{PREFIX}TRITON__GRPC_URL": self.places.triton_grpc,
            f"{PREFIX}PIPELINES": f'["{self.folder}"]',
            f"{PREFIX}RUN_DIR": str(self.run_dir),
            f"{PREFIX}LOOP__SESSION_TIMEOUT_S": "6",
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            "OMP_NUM_THREADS": "1",
            **self.extra,
        }
        self.process = Forked(environment)

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    @property
    def is_ready(self) -> bool:
        """Tell whether it takes records, as of its last heartbeat, at most a second old."""
        from penstock_inference.replicas import live_replicas

        replicas, _ = live_replicas(self.run_dir)
        return any(facts.pid == self.pid and facts.ready for facts in replicas)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Return its exit code: -9 when it was killed."""
        return self.process.wait(timeout_s)

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Ask it to drain and end; return its exit code. One that stays says where it is."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.show_stacks()
            raise

    def show_stacks(self) -> None:
        """Have it print where its threads are, if it runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)
            with suppress(subprocess.TimeoutExpired):
                self.wait(1.0)

    def end(self) -> None:
        """Make sure that it is gone, whatever state it is in."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(STOP_S)


def counted(run_dir: Path, name: str, **labels: str) -> float:
    """Return the sum of a counter over all routers of a run folder, the dead ones too."""
    from harness.figures import total

    return total(figures(run_dir), name, **labels)


def figures(run_dir: Path) -> Figures:
    """Return the metrics of all routers of a run folder together."""
    from harness.figures import parse
    from penstock_inference.replicas import METRICS
    from penstock_service.metrics import multiprocess_exposition

    return parse(multiprocess_exposition(run_dir / METRICS))


def main() -> int:
    """Run a router until told to stop."""
    from penstock_inference.router import Router
    from penstock_inference.settings import load_settings
    from penstock_pipelines.loader import load_pipeline
    from penstock_service.command import on_stop

    faulthandler.register(signal.SIGUSR1)
    stop = threading.Event()
    on_stop(stop.set)
    settings = load_settings()
    router = Router(settings, load_pipeline(settings.pipelines[0]))
    try:
        while not stop.wait(LOOK_S):
            router.check_health()
    except RuntimeError as exc:
        sys.stderr.write(f"{exc}\n")
        router.close()
        return 1
    router.close()
    return 0
