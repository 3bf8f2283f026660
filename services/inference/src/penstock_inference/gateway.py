"""The gateway deployment: wires the HTTP interface to the model server, Kafka and Feast."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from penstock_pipelines.loader import LoadedPipeline
from penstock_registry.schema_registry import RegistryClient
from penstock_service.logs import configure_logging
from prometheus_client import CollectorRegistry

from penstock_inference.metrics import InferenceFamilies, InferenceMetrics
from penstock_inference.model_manager import ModelManager
from penstock_inference.predictions import Signature
from penstock_inference.publisher import PredictionPublisher
from penstock_inference.replicas import Heartbeat, ReportStore
from penstock_inference.rest.app import PipelineService, create_app
from penstock_inference.rest.batching import RestScorer
from penstock_inference.router import SERVICE
from penstock_inference.scoring import DataPlane, ServingState
from penstock_inference.settings import InferenceSettings
from penstock_inference.triton import TritonServer

if TYPE_CHECKING:
    from penstock_inference.rest.event_vectors import EventVectors


class Gateway:
    """Ray Serve's HTTP ingress.

    Parameters
    ----------
    settings
        Of the service.
    pipelines
        The pipelines it answers for.
    reports
        Where it reports its metrics.
    """

    def __init__(
        self,
        settings: InferenceSettings,
        pipelines: list[LoadedPipeline],
        reports: ReportStore | None = None,
    ) -> None:
        configure_logging(SERVICE, settings.log_level)
        self._settings = settings
        self._attempt = uuid.uuid4().hex
        registry = CollectorRegistry()
        self._families = InferenceFamilies(registry)
        self._server = TritonServer(settings.triton)
        self._registry = RegistryClient(settings.registry)
        self._managers: list[ModelManager] = []
        self._publishers: list[PredictionPublisher] = []
        self._services = {p.config.pipeline: self._service(p) for p in pipelines}
        for manager in self._managers:
            manager.start_threads()
        self._heartbeat: Heartbeat | None = None
        if reports is not None:
            self._heartbeat = Heartbeat(reports, "", registry, lambda: True)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the HTTP application; Serve asks once, after the constructor."""
        return create_app(self._services, self._settings.gateway, self._families)

    def __del__(self) -> None:
        """Stop the threads and deliver what is queued; Serve calls this at shutdown."""
        for manager in self._managers:
            manager.stop_threads()
        for publisher in self._publishers:
            publisher.close()
        self._managers, self._publishers = [], []
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None

    def _service(self, pipeline: LoadedPipeline) -> PipelineService:
        settings, config = self._settings, pipeline.config
        metrics = InferenceMetrics(self._families, config.pipeline)
        serving = ServingState(config.pipeline, metrics)
        manager = ModelManager.of_pipeline(
            config, settings.kafka, self._registry, self._server, serving
        )
        publisher = PredictionPublisher(
            settings.kafka,
            self._registry,
            config.topic_names.predictions_rest,
            queue_rows=settings.gateway.publish_queue_rows,
            dropped=self._families.unpublished.labels(config.pipeline).inc,
        )
        self._managers.append(manager)
        self._publishers.append(publisher)
        # One thread: neither the decoder nor the online store is thread-safe.
        executor = ThreadPoolExecutor(1, thread_name_prefix=f"events-{config.pipeline}")
        vectors = executor.submit(_event_vectors, pipeline, settings.feast_dir / config.pipeline)
        return PipelineService(
            signature=Signature.of_pipeline(config, settings.threshold, self._attempt),
            width=len(config.feature_names),
            scorer=RestScorer(DataPlane(self._server, serving, config.model.timeout_s), manager),
            publisher=publisher,
            vector=lambda body: vectors.result().vector(body),
            executor=executor,
        )


def _event_vectors(pipeline: LoadedPipeline, feast_repo: Path) -> EventVectors:
    """Build what named fields need; slow to import, so it is done beside the start."""
    from penstock_inference.rest.event_vectors import EventVectors

    vectors = EventVectors(pipeline, feast_repo)
    vectors.warm_up()
    return vectors
