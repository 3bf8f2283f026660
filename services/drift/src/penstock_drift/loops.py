"""Wiring of one pipeline: two loops that re-key, one that watches."""

from __future__ import annotations

import uuid
from typing import Any, Final

from penstock_pipelines.loader import LoadedPipeline
from penstock_pipelines.model import PipelineConfig
from penstock_registry.client import RegistryClient
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_schemas.schema_files import schema_text
from penstock_streaming.clients import ConfluentClients, ConsumerClient
from penstock_streaming.handler import Handler
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.processor import Processor
from penstock_streaming.settings import LoopSettings

from penstock_drift.display import Display
from penstock_drift.handler import MonitorHandler, Sources
from penstock_drift.history import KafkaHistory
from penstock_drift.metrics import DriftFamilies, DriftMetrics
from penstock_drift.outputs import SchemaIds
from penstock_drift.quality import Quality
from penstock_drift.references import References, TrackingServer
from penstock_drift.rekey import INTERACTION_SCHEMA, PREDICTION_SCHEMA, RekeyHandler
from penstock_drift.settings import DriftSettings

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
        self._topics = loaded.config.topic_names
        self._registry = RegistryClient(settings.registry)
        self.metrics = DriftMetrics(drift_families, loaded.config.pipeline)
        self.quality = Quality(self.metrics)

    def predictions(self) -> Processor:
        """Return the loop that re-keys predictions.

        Raises
        ------
        RegistryUnavailable
            As all of these: call again.
        """
        decoder = ColumnarDecoder(PREDICTION_SCHEMA, self._registry.schema_text)
        handler = RekeyHandler(
            "prediction", decoder, self._observation_encoder(), self._topics.observations
        )
        return self._processor("predictions-", self._topics.predictions, handler)

    def interactions(self) -> Processor:
        """Return the loop that re-keys interactions with a label."""
        decoder = ColumnarDecoder(INTERACTION_SCHEMA, self._registry.schema_text)
        handler = RekeyHandler(
            "label", decoder, self._observation_encoder(), self._topics.observations
        )
        return self._processor("interactions-", self._topics.interactions, handler)

    def monitor(self) -> Processor:
        """Return the loop that watches."""
        settings = self._settings
        resolve = self._registry.schema_text
        server = TrackingServer(settings.mlflow_url, settings.mlflow_timeout_s)
        sources = Sources(
            ColumnarDecoder(schema_text("observation.avsc"), resolve),
            KafkaHistory(settings.kafka, self._topics, resolve),
            References(server),
        )
        ids = SchemaIds(
            self._register(self._topics.drift, "drift_event.avsc"),
            self._register(self._topics.retrain, "retrain_event.avsc"),
            self._register(self._topics.drift_state, "drift_state.avsc"),
        )
        display = Display(self.metrics, self.quality, self.config.monitor.psi_threshold)
        handler = MonitorHandler(self.config, sources, ids, display, settings.snapshot_every_s)
        return self._processor("", self._topics.observations, handler)

    def _observation_encoder(self) -> ColumnarEncoder:
        schema_id = self._register(self._topics.observations, "observation.avsc")
        return ColumnarEncoder(schema_text("observation.avsc"), schema_id)

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
