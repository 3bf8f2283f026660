"""One run of the job: its request, the pipeline, and the clients of everything it talks to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_pipelines.model import PipelineConfig
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_routing.topic import Make, RoutingTopic
from penstock_schemas.errors import ConfigError
from penstock_schemas.records import RoutingState
from penstock_schemas.retrain_requests import REQUEST_ID
from penstock_service.fail_points import FailPoints
from penstock_streaming.settings import KafkaSettings
from penstock_training.deployment import ModelServer
from penstock_training.tracking import Tracker

from penstock_training_job.request import RequestLog

_ROUTING_TIMEOUT_S: Final = 30.0
_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of what the job talks to.

    Parameters
    ----------
    kafka, triton_grpc
        host:port.
    registry, mlflow
        URLs.
    models_dir
        The model server's repository.
    """

    kafka: str
    registry: str
    mlflow: str
    triton_grpc: str
    models_dir: Path


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What the steps of a job share; made by `open_job`."""

    request_id: str
    pipeline: LoadedPipeline
    addresses: Addresses
    kafka: KafkaSettings
    registry: RegistryClient
    log: RequestLog
    tracker: Tracker
    routing: RoutingTopic
    fail_points: FailPoints

    @property
    def config(self) -> PipelineConfig:
        """The pipeline's configuration."""
        return self.pipeline.config

    @property
    def server(self) -> ModelServer:
        """The model server."""
        return ModelServer(self.addresses.triton_grpc, self.addresses.models_dir)

    def routed(self) -> RoutingState | None:
        """Return the routing state in force."""
        return self.routing.latest(_ROUTING_TIMEOUT_S)

    def route(self, make: Make) -> RoutingState:
        """Write the next routing state, as `RoutingTopic.write`."""
        return self.routing.write(make, _ROUTING_TIMEOUT_S)

    def pause(self) -> None:
        """Sleep for a second, then check that the request still stands.

        Raises
        ------
        Withdrawn
            If it does not.
        """
        time.sleep(_PAUSE_S)
        self.log.check_wanted()


def open_job(
    request_id: str, pipeline_dir: Path, addresses: Addresses, fail_points: FailPoints
) -> TrainingJob:
    """Return the job of a request.

    Raises
    ------
    ConfigError
        If the pipeline is wrong, or the request's id cannot be one.
    """
    if not REQUEST_ID.fullmatch(request_id):
        raise ConfigError(f"--request-id: expected {REQUEST_ID.pattern}, got {request_id!r}")
    pipeline = load_pipeline(pipeline_dir)
    name, topics = pipeline.config.pipeline, pipeline.config.topic_names
    kafka = KafkaSettings(bootstrap_servers=addresses.kafka)
    registry = RegistryClient(RegistrySettings(url=addresses.registry))
    return TrainingJob(
        request_id=request_id,
        pipeline=pipeline,
        addresses=addresses,
        kafka=kafka,
        registry=registry,
        log=RequestLog(kafka, registry, topics.retrain, request_id),
        tracker=Tracker(addresses.mlflow, name),
        routing=RoutingTopic(kafka, registry, topics.models, name),
        fail_points=fail_points,
    )
