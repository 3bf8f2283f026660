"""The service's own process: deploys to Ray, watches, answers probes, drains at the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import ray
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_schemas.errors import ConfigError
from penstock_service.health import serve_health
from penstock_service.metrics import multiprocess_exposition, prepare_multiprocess

from penstock_inference.app import Applications, connect
from penstock_inference.router import DRAIN_S
from penstock_inference.run_facts import METRICS, live_replicas, remove_replica
from penstock_inference.settings import InferenceSettings

logger = logging.getLogger(__name__)

TURN_S = 1.0
"""Time between two looks at replicas and scale, seconds."""
STATUS_EVERY_TURNS = 3
RAY_GONE_S = 30.0
"""Silence of Ray after which this process ends, so that its supervisor starts it anew, seconds."""


class Watch:
    """Deploys, then keeps what the probes answer up to date, on a thread of its own.

    A call to Ray has no deadline: while its head is away it hangs. So the process's main thread
    calls nothing but waits, and ends the process when this one has been silent for too long.

    Parameters
    ----------
    applications
        What is deployed.
    """

    def __init__(self, applications: Applications) -> None:
        self._applications = applications
        self._run_dir = applications.settings.run_dir
        self._turns = 0
        self._is_running = False
        self._silent_after = time.monotonic() + applications.settings.start_timeout_s

    @property
    def live(self) -> bool:
        """Tell whether Ray answers."""
        return time.monotonic() < self._silent_after

    @property
    def ready(self) -> bool:
        """Tell whether every application runs and every pipeline has a replica at work."""
        if not self._is_running:
            return False
        replicas, _ = live_replicas(self._run_dir)
        working = {facts.pipeline for facts in replicas if facts.ready}
        return all(p.config.pipeline in working for p in self._applications.pipelines)

    def run(self, stop: threading.Event) -> None:
        """Deploy and watch until ``stop``, then delete what was deployed."""
        try:
            self._applications.deploy()
            while not stop.wait(TURN_S):
                self.turn()
            self._applications.delete()
            ray.shutdown()
        except Exception:
            # The main thread sees the end of this one.
            logger.exception("ray")

    def turn(self) -> None:
        """Look once: forget dead replicas, apply the wanted scale, ask Serve."""
        _, gone = live_replicas(self._run_dir)
        for pid in gone:
            logger.warning("replica %d is gone", pid)
            remove_replica(self._run_dir, pid)
        try:
            self._applications.apply_scale()
            if not self._is_running or self._turns % STATUS_EVERY_TURNS == 0:
                self._is_running = self._applications.running()
            self._silent_after = time.monotonic() + RAY_GONE_S
        except Exception as exc:
            # Whatever Ray raises while its head is away; live says no after a while.
            self._is_running = False
            logger.warning("ray: %s: %s", type(exc).__name__, exc)
        self._turns += 1


def run(settings: InferenceSettings, stop: threading.Event, listen: Callable[[], None]) -> int:
    """Run the service until ``stop`` is set or Ray is gone.

    Parameters
    ----------
    listen
        Installs the signal handlers that set ``stop``; called again once Ray, which installs its
        own, is connected.

    Returns
    -------
    The exit code: 0 after a stop, 1 if Ray is gone; then threads of Ray may still hang.

    Raises
    ------
    ConfigError
        A pipeline folder is wrong, a port is taken, or Ray is not there.
    """
    applications = Applications(settings, load_pipelines(settings.pipelines))
    settings = applications.settings
    metrics_dir = settings.run_dir / METRICS
    prepare_multiprocess(metrics_dir)
    watch = Watch(applications)
    with ExitStack() as stack:
        try:
            stack.enter_context(
                serve_health(
                    settings.metrics_host,
                    settings.metrics_port,
                    live=lambda: watch.live,
                    ready=lambda: watch.ready and not stop.is_set(),
                    metrics=lambda: multiprocess_exposition(metrics_dir),
                )
            )
        except OSError as exc:
            raise ConfigError(f"{exc.strerror}; change PENSTOCK_INFERENCE_METRICS_PORT") from exc
        listen()
        connect(settings)
        listen()
        thread = threading.Thread(target=watch.run, args=(stop,), name="watch", daemon=True)
        thread.start()
        while not stop.wait(TURN_S):
            if not watch.live or not thread.is_alive():
                logger.error("Ray does not answer")
                return 1
        thread.join(DRAIN_S + 1.0)
    return 0


def load_pipelines(folders: Iterable[Path]) -> list[LoadedPipeline]:
    """Load the pipelines; no name may come twice.

    Raises
    ------
    ConfigError
        A folder is wrong, or two have pipelines of one name.
    """
    pipelines = [load_pipeline(folder) for folder in folders]
    names = [p.config.pipeline for p in pipelines]
    if len(set(names)) < len(names):
        raise ConfigError(f"PENSTOCK_INFERENCE_PIPELINES: a pipeline is named twice: {names}")
    return pipelines
