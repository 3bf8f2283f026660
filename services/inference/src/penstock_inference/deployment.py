"""The service's own process: deploys routers and gateway to Ray Serve, watches, answers probes.

One Serve application of routers per pipeline, and one of the gateway.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import ray
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_schemas.errors import ConfigError
from penstock_service.health import serve_health
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import ApplicationStatus, LoggingConfig

from penstock_inference.autoscaling import serve_config
from penstock_inference.gateway import Gateway
from penstock_inference.replicas import GcsStore, Replicas, wanted_replicas
from penstock_inference.router import DRAIN_S, Router
from penstock_inference.settings import InferenceSettings

logger = logging.getLogger(__name__)

NAMESPACE: Final = "penstock"
GATEWAY_APP: Final = "gateway"
GATEWAY_CONNECTIONS: Final = 512
"""Requests that Serve passes to the gateway at once; the gateway itself answers 429 long before."""
ITSELF: Final = 0
"""In place of a number of replicas: Serve decides it."""
ROUTER_CALLS: Final = 4
"""Nothing is called on a router but its health check."""


def router_app(pipeline: str) -> str:
    """Return the name of a pipeline's application."""
    return f"router-{pipeline}"


WORKER_ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1"}
"""Variables of replica workers: what must be set before a library is imported."""


def connect(settings: InferenceSettings) -> None:
    """Connect this process to Ray and start Serve's HTTP proxy.

    Raises
    ------
    ConfigError
        If nothing listens at the address in time.
    """
    _await_port(settings.ray_address, settings.start_timeout_s)
    ray.init(
        address=settings.ray_address,
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": WORKER_ENVIRONMENT},
    )
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=settings.gateway_host, port=settings.gateway_port),
    )


def _await_port(address: str, timeout_s: float) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"PENSTOCK_INFERENCE_RAY_ADDRESS: expected host:port, got {address!r}")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=2.0).close()
            return
        except OSError as exc:
            if time.monotonic() > deadline:
                raise ConfigError(f"no Ray head at {address} after {timeout_s:.0f} s") from exc
        time.sleep(0.2)


@dataclass(slots=True)
class Applications:
    """The applications of this process's settings.

    Parameters
    ----------
    settings, pipelines
        Of the service.
    code_version
        Serve replaces replicas whose version differs. It is one per process, so that a change of
        scale leaves the running replicas alone and a new release does not.
    scale
        Replicas deployed, by pipeline; `ITSELF` where the deployment scales itself.
    """

    settings: InferenceSettings
    pipelines: list[LoadedPipeline]
    code_version: str = field(default_factory=lambda: uuid.uuid4().hex)
    scale: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Replicas run in folders of Ray's own.
        self.settings = self.settings.model_copy(
            update={
                "run_dir": self.settings.run_dir.resolve(),
                "feast_dir": self.settings.feast_dir.resolve(),
            }
        )

    @property
    def reports(self) -> GcsStore:
        """Where the replicas of this deployment report themselves."""
        return GcsStore(self.code_version)

    @property
    def names(self) -> list[str]:
        """Names of all applications."""
        return [router_app(p.config.pipeline) for p in self.pipelines] + [GATEWAY_APP]

    def deploy(self) -> None:
        """Deploy all; replicas come up in the background."""
        self.scale = self._wanted()
        gateway = self._deployment(serve.ingress()(Gateway), "Gateway", 1, GATEWAY_CONNECTIONS)
        target = serve.RunTarget(
            gateway.bind(self.settings, self.pipelines, self.reports), GATEWAY_APP, "/"
        )
        self._run([target, *(self._router(p) for p in self.pipelines)])

    def apply_scale(self) -> None:
        """Deploy the routers of each pipeline whose wanted number of replicas has changed."""
        wanted = self._wanted()
        changed = [
            p for p in self.pipelines if wanted[p.config.pipeline] != self.scale[p.config.pipeline]
        ]
        if changed:
            self.scale = wanted
            self._run([self._router(p) for p in changed])
            logger.info("scale: %s", wanted)

    def running(self) -> bool:
        """Tell whether Serve has every application running."""
        applications = serve.status().applications
        return all(
            name in applications and applications[name].status == ApplicationStatus.RUNNING
            for name in self.names
        )

    def delete(self) -> None:
        """Delete all; their replicas drain. Returns when they are gone."""
        for name in self.names:
            serve.delete(name, _blocking=False)
        deadline = time.monotonic() + DRAIN_S
        while set(self.names) & set(serve.status().applications):
            if time.monotonic() > deadline:
                logger.warning("some replicas did not drain in %.0f s", DRAIN_S)
                return
            time.sleep(0.1)

    def _wanted(self) -> dict[str, int]:
        noted = wanted_replicas(self.settings.run_dir)
        names = [p.config.pipeline for p in self.pipelines]
        by_default = ITSELF if self.settings.autoscaling.enabled else self.settings.replicas
        return {name: noted.get(name) or by_default for name in names}

    def _router(self, pipeline: LoadedPipeline) -> serve.RunTarget:
        name = pipeline.config.pipeline
        router = self._deployment(Router, "Router", self.scale[name], ROUTER_CALLS)
        return serve.RunTarget(
            router.bind(self.settings, pipeline, self.reports), router_app(name), None
        )

    def _deployment(self, target: Any, name: str, replicas: int, calls: int) -> Any:
        deployment = serve.deployment(
            target,
            name=name,
            **self._number(replicas),
            max_ongoing_requests=calls,
            ray_actor_options={"num_cpus": self.settings.replica_cpus},
            health_check_period_s=2.0,
            health_check_timeout_s=10.0,
            graceful_shutdown_wait_loop_s=0.1,
            graceful_shutdown_timeout_s=DRAIN_S + 1.0,
            logging_config=LoggingConfig(enable_access_log=False),
        )
        # Serve's own version is a new one per call, and would restart all replicas for a mere
        # change of their number; the option is internal in this release of Ray, hence the pin.
        return deployment.options(version=self.code_version, _internal=True)

    def _number(self, replicas: int) -> dict[str, Any]:
        if replicas == ITSELF:
            return {"autoscaling_config": serve_config(self.settings.autoscaling)}
        return {"num_replicas": replicas}

    @staticmethod
    def _run(targets: list[serve.RunTarget]) -> None:
        serve.run_many(
            targets,
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )


TURN_S = 1.0
"""Time between two looks at replicas and scale, seconds."""
STARTING_TURN_S = 0.5
"""The same while not everything is ready."""
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
    replicas
        Its replicas.
    """

    def __init__(self, applications: Applications, replicas: Replicas) -> None:
        self._applications = applications
        self._replicas = replicas
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
        working = {report.pipeline for report in self._replicas.live if report.is_ready}
        return all(p.config.pipeline in working for p in self._applications.pipelines)

    def run(self, stop: threading.Event) -> None:
        """Deploy and watch until ``stop``, then delete what was deployed."""
        try:
            self._forget_earlier_replicas()
            self._applications.deploy()
            while not stop.wait(TURN_S if self.ready else STARTING_TURN_S):
                self.turn()
            self._applications.delete()
            ray.shutdown()
        except Exception:
            # The main thread sees the end of this one.
            logger.exception("ray")

    def _forget_earlier_replicas(self) -> None:
        """Delete the reports of earlier deployments; they are not read, so it may fail."""
        try:
            self._applications.reports.delete_all_reports()
        except Exception as exc:
            logger.warning("ray: %s: %s", type(exc).__name__, exc)

    def turn(self) -> None:
        """Look once: read the replicas' reports, apply the wanted scale, ask Serve."""
        try:
            for report in self._replicas.read_reports():
                if not report.is_closed:
                    logger.warning("replica %d on %s is gone", report.pid, report.node)
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
    replicas = Replicas(applications.reports)
    watch = Watch(applications, replicas)
    with ExitStack() as stack:
        try:
            stack.enter_context(
                serve_health(
                    settings.metrics_host,
                    settings.metrics_port,
                    live=lambda: watch.live,
                    ready=lambda: watch.ready and not stop.is_set(),
                    metrics=replicas.metrics_page,
                    pages={"/replicas": replicas.replicas_page},
                )
            )
        except OSError as exc:
            raise ConfigError(f"{exc.strerror}; change PENSTOCK_INFERENCE_METRICS_PORT") from exc
        listen()
        connect(settings)
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
