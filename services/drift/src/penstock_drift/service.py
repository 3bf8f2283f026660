"""The service: per pipeline two loops that re-key and one that monitors, until told to stop."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from typing import Any, Final

from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_pipelines.model import PipelineConfig
from penstock_registry.schema_registry import RegistryClient
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_schemas.schema_files import schema_text
from penstock_service.loop_thread import LoopThread, run_loops
from penstock_streaming.clients import ConfluentClients, ConsumerClient
from penstock_streaming.handler import Handler
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.processor import Processor
from penstock_streaming.settings import LoopSettings
from prometheus_client import CollectorRegistry, generate_latest

from penstock_drift.handler import MonitorHandler, SchemaIds, Sources
from penstock_drift.metrics import DriftFamilies, DriftMetrics
from penstock_drift.references import References, TrackingServer
from penstock_drift.rekey import INTERACTION_SCHEMA, PREDICTION_SCHEMA, RekeyHandler, Source
from penstock_drift.report_keeper import ReportedPipeline, ReportKeeper
from penstock_drift.settings import DriftSettings
from penstock_drift.state import KafkaHistory

FETCH_BYTES: Final = 64 * 1024
"""Of one partition per fetch, bytes; a broker returns whole batches and at least one."""


class InterleavingClients(ConfluentClients):
    """Clients whose consumer takes little of each partition at a time.

    After an absence much is waiting, and the client returns what one fetch has brought of a
    partition before it comes to the next one. Detectors would see the past of one partition after
    the present of another.
    """

    def consumer(self, config: dict[str, Any]) -> ConsumerClient:
        """Return a new consumer."""
        return super().consumer({**config, "fetch.message.max.bytes": FETCH_BYTES})


def loop_settings(settings: DriftSettings, config: PipelineConfig) -> LoopSettings:
    """Return the loops' settings with what pipeline.yaml and the run folder decide."""
    return settings.loop.model_copy(
        update={
            "max_batch_rows": config.batching.max_batch_rows,
            "max_in_flight": config.batching.max_in_flight,
            "journal_dir": settings.run_dir and settings.run_dir / "flights",
        }
    )


class PipelineLoops:
    """Builds the loops of one pipeline.

    Parameters
    ----------
    families
        The process's metric families.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        settings: DriftSettings,
        families: tuple[LoopMetrics, DriftFamilies],
    ) -> None:
        self.config = loaded.config
        self._settings = settings
        self._loop_metrics, drift_families = families
        self.topics = loaded.config.topic_names
        self._registry = RegistryClient(settings.registry)
        threshold = loaded.config.monitor.psi_threshold
        self.metrics = DriftMetrics(drift_families, loaded.config.pipeline, threshold)

    def predictions(self) -> Processor:
        """Return the loop that re-keys predictions.

        Raises
        ------
        RegistryUnavailable
            As all of these: call again.
        """
        return self._rekey("prediction", PREDICTION_SCHEMA, self.topics.predictions)

    def interactions(self) -> Processor:
        """Return the loop that re-keys interactions with a label."""
        return self._rekey("label", INTERACTION_SCHEMA, self.topics.interactions)

    def monitor(self) -> Processor:
        """Return the loop that monitors the champion."""
        settings = self._settings
        resolve = self._registry.schema_text
        server = TrackingServer(settings.mlflow_url, settings.mlflow_timeout_s)
        sources = Sources(
            ColumnarDecoder(schema_text("observation.avsc"), resolve),
            KafkaHistory(settings.kafka, self.topics, resolve),
            References(server),
        )
        ids = SchemaIds(
            self._register(self.topics.drift, "drift_event.avsc"),
            self._register(self.topics.retrain, "retrain_event.avsc"),
            self._register(self.topics.drift_state, "drift_state.avsc"),
        )
        handler = MonitorHandler(self.config, sources, ids, self.metrics, settings.snapshot_every_s)
        return self._processor("", self.topics.observations, handler)

    def _rekey(self, source: Source, schema: str, topic: str) -> Processor:
        text, observations = schema_text("observation.avsc"), self.topics.observations
        encoder = ColumnarEncoder(text, self._register(observations, "observation.avsc"))
        decoder = ColumnarDecoder(schema, self._registry.schema_text)
        handler = RekeyHandler(source, decoder, encoder, observations)
        role = {"prediction": "predictions-", "label": "interactions-"}[source]
        return self._processor(role, topic, handler)

    def _register(self, topic: str, file_name: str) -> int:
        return self._registry.register(f"{topic}-value", schema_text(file_name))

    def _processor(self, role: str, input_topic: str, handler: Handler) -> Processor:
        group_id = f"penstock-drift-{role}{self.config.pipeline}"
        return Processor(
            kafka=self._settings.kafka,
            group_id=group_id,
            input_topic=input_topic,
            handler=handler,
            service="drift",
            transactional_id=f"{group_id}-{uuid.uuid4().hex}",
            loop=loop_settings(self._settings, self.config),
            metrics=self._loop_metrics,
            clients=InterleavingClients(),
        )


def run(settings: DriftSettings, stop: threading.Event) -> int:
    """Run the service until ``stop`` is set or a loop fails.

    Returns
    -------
    The exit code: 0 after a stop, 1 if a loop failed.

    Raises
    ------
    ConfigError
        If a pipeline folder is wrong.
    """
    registry = CollectorRegistry()
    families = LoopMetrics(registry), DriftFamilies(registry)
    pipelines = [
        PipelineLoops(load_pipeline(Path(folder)), settings, families)
        for folder in settings.pipelines
    ]
    threads = [thread for loops in pipelines for thread in _threads(loops, settings, stop)]

    def metrics() -> bytes:
        for loops in pipelines:
            loops.metrics.quality.export()
        return generate_latest(registry)

    keeper = ReportKeeper(
        settings,
        {
            loops.config.pipeline: ReportedPipeline(folder, loops.topics.drift, loops.metrics)
            for loops, folder in zip(pipelines, settings.pipelines, strict=True)
        },
    )
    keeper.start_thread()
    try:
        return run_loops(
            threads,
            stop,
            host=settings.metrics_host,
            port=settings.metrics_port,
            metrics=metrics,
            drain_timeout_s=settings.loop.drain_timeout_s,
        )
    finally:
        keeper.close()


def _threads(
    loops: PipelineLoops, settings: DriftSettings, stop: threading.Event
) -> list[LoopThread]:
    name = loops.config.pipeline
    builds = {
        f"predictions-{name}": loops.predictions,
        f"interactions-{name}": loops.interactions,
        f"monitor-{name}": loops.monitor,
    }
    return [
        LoopThread(
            role,
            build,
            stop,
            start_timeout_s=settings.start_timeout_s,
            stuck_after_s=settings.stuck_after_s,
        )
        for role, build in builds.items()
    ]
