"""The service's own process: deploys to Ray, watches, answers probes, drains at the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import ray
from penstock_pipelines.loader import load_pipeline
from penstock_schemas.errors import ConfigError
from penstock_telemetry.health import serve_health
from penstock_telemetry.metrics import multiprocess_exposition, prepare_multiprocess

from penstock_inference.app import Applications, connect
from penstock_inference.run_facts import METRICS, live_replicas, remove_replica
from penstock_inference.settings import InferenceSettings

logger = logging.getLogger(__name__)

TURN_S = 1.0
"""Time between two looks at replicas and scale, seconds."""
STATUS_EVERY_TURNS = 3
RAY_GONE_S = 15.0
"""Silence of Ray after which this process ends, so that its supervisor starts it anew, seconds."""


class Watch:
    """What the probes answer; brought up to date once per turn.

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
        self._ray_seen = time.monotonic()

    @property
    def live(self) -> bool:
        """Tell whether Ray answers."""
        return time.monotonic() - self._ray_seen < RAY_GONE_S

    @property
    def ready(self) -> bool:
        """Tell whether every application runs and every pipeline has a replica at work."""
        if not self._is_running:
            return False
        replicas, _ = live_replicas(self._run_dir)
        working = {facts.pipeline for facts in replicas if facts.ready}
        return all(p.config.pipeline in working for p in self._applications.pipelines)

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
            self._ray_seen = time.monotonic()
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
    The exit code: 0 after a stop, 1 if Ray is gone.

    Raises
    ------
    ConfigError
        A pipeline folder is wrong, or Ray is not there.
    """
    pipelines = [load_pipeline(folder) for folder in settings.pipelines]
    names = [p.config.pipeline for p in pipelines]
    if len(set(names)) < len(names):
        raise ConfigError(f"PENSTOCK_INFERENCE_PIPELINES: a pipeline is named twice: {names}")
    applications = Applications(settings, pipelines)
    settings = applications.settings
    metrics_dir = settings.run_dir / METRICS
    prepare_multiprocess(metrics_dir)
    watch = Watch(applications)
    with serve_health(
        settings.metrics_host,
        settings.metrics_port,
        live=lambda: watch.live,
        ready=lambda: watch.ready and not stop.is_set(),
        metrics=lambda: multiprocess_exposition(metrics_dir),
    ):
        listen()
        connect(settings)
        listen()
        applications.deploy()
        while not stop.wait(TURN_S):
            watch.turn()
            if not watch.live:
                logger.error("Ray has not answered for %.0f s", RAY_GONE_S)
                return 1
        applications.delete()
    ray.shutdown()
    return 0
