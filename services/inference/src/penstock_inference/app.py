"""Wiring: the Ray Serve applications, one of routers per pipeline and one of the gateway."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

import ray
from penstock_pipelines.loader import LoadedPipeline
from penstock_schemas.errors import ConfigError
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import ApplicationStatus, LoggingConfig

from penstock_inference.autoscaling import serve_config
from penstock_inference.gateway import Gateway
from penstock_inference.router import DRAIN_S, Router
from penstock_inference.run_facts import METRICS, wanted_replicas
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
        runtime_env={"env_vars": worker_environment(settings)},
    )
    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=settings.gateway_host, port=settings.gateway_port),
    )


def worker_environment(settings: InferenceSettings) -> dict[str, str]:
    """Return the variables of replica workers.

    The metrics folder must be known before the metrics library is imported, so it cannot be set
    by the replica itself.
    """
    metrics = settings.run_dir.resolve() / METRICS
    variables = {"PROMETHEUS_MULTIPROC_DIR": str(metrics), "OMP_NUM_THREADS": "1"}
    fail_point = os.environ.get("PENSTOCK_FAIL_POINT")
    return variables | ({"PENSTOCK_FAIL_POINT": fail_point} if fail_point else {})


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
    def names(self) -> list[str]:
        """Names of all applications."""
        return [router_app(p.config.pipeline) for p in self.pipelines] + [GATEWAY_APP]

    def deploy(self) -> None:
        """Deploy all; replicas come up in the background."""
        self.scale = self._wanted()
        gateway = self._deployment(serve.ingress()(Gateway), "Gateway", 1, GATEWAY_CONNECTIONS)
        target = serve.RunTarget(gateway.bind(self.settings, self.pipelines), GATEWAY_APP, "/")
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
        return serve.RunTarget(router.bind(self.settings, pipeline), router_app(name), None)

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
