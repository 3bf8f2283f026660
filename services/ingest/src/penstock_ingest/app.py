"""Builds the parts of each pipeline and runs their loops until a stop signal."""

from __future__ import annotations

import logging
import threading
import uuid
from pathlib import Path

from penstock_features.aggregates import AggregateLayout, warm_up
from penstock_features.online import OnlineStore
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_pipelines.model import PipelineConfig, live_settings
from penstock_pipelines.watch import PipelineWatch
from penstock_registry.schema_registry import RegistryClient
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_schemas.errors import FeatureStoreUnavailable
from penstock_schemas.schema_files import schema_text
from penstock_service.loop_thread import LoopThread, run_loops
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.processor import Processor
from penstock_streaming.settings import LoopSettings
from prometheus_client import CollectorRegistry, generate_latest

from penstock_ingest.changelog import StateChangelog
from penstock_ingest.handler import IngestHandler
from penstock_ingest.metrics import IngestFamilies, IngestMetrics
from penstock_ingest.pipeline import IngestPipeline
from penstock_ingest.settings import IngestSettings
from penstock_ingest.writeback import WriteBackThread

logger = logging.getLogger(__name__)


def loop_settings(settings: IngestSettings, config: PipelineConfig) -> LoopSettings:
    """Return the loop's settings with what pipeline.yaml and the run folder decide."""
    return settings.loop.model_copy(
        update={
            **live_settings(config.batching, config.limits),
            "journal_dir": settings.run_dir and settings.run_dir / "flights",
        }
    )


class PipelineLoop:
    """Builds the loop of one pipeline and all it depends on.

    Parameters
    ----------
    families
        The process's metric families.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        settings: IngestSettings,
        families: tuple[LoopMetrics, IngestFamilies],
    ) -> None:
        config = loaded.config
        self._loaded = loaded
        self._settings = settings
        self._loop_metrics, ingest_families = families
        self._metrics = IngestMetrics(ingest_families, config.pipeline)
        self._layout = AggregateLayout(config)
        self._feast_dir = settings.feast_dir / config.pipeline
        self._write_back = self._make_write_back(config)

    def thread(self, stop: threading.Event) -> LoopThread:
        """Return the thread that runs it."""
        return LoopThread(
            f"loop-{self._loaded.config.pipeline}",
            self.build,
            stop,
            start_timeout_s=self._settings.start_timeout_s,
            stuck_after_s=self._settings.stuck_after_s,
            on_end=self._write_back.close if self._write_back is not None else None,
        )

    def build(self) -> Processor:
        """Return the loop.

        Raises
        ------
        RegistryUnavailable
            If the output schema cannot be registered now; call again.
        """
        config, settings = self._loaded.config, self._settings
        loop = loop_settings(settings, config)
        pipeline = self._make_pipeline(config, loop.max_output_bytes)
        reloads = self._loop_metrics.reloads
        watch = PipelineWatch(
            self._loaded, lambda result: reloads.labels(config.pipeline, result).inc()
        )
        topics = config.topic_names
        warm_up(config)
        changelog = None
        if self._layout.names:
            changelog = StateChangelog(
                settings.kafka, topics.ingest_state, self._layout, self._metrics
            )
        processor = Processor(
            kafka=settings.kafka,
            group_id=f"penstock-ingest-{config.pipeline}",
            input_topic=topics.events,
            handler=IngestHandler(pipeline, changelog, self._write_back, self._metrics),
            service="ingest",
            transactional_id=f"penstock-ingest-{config.pipeline}-{uuid.uuid4().hex}",
            loop=loop,
            metrics=self._loop_metrics,
            retune=lambda: loop_settings(settings, watch.config()),
        )
        if self._write_back is not None:
            self._write_back.start()
        return processor

    def _make_pipeline(self, config: PipelineConfig, max_output_bytes: int) -> IngestPipeline:
        registry = RegistryClient(self._settings.registry)
        schema = schema_text("feature_vector.avsc")
        subject = f"{config.topic_names.features}-value"
        schema_id = registry.register(subject, schema)
        online = self._make_online(config)
        return IngestPipeline(
            config,
            ColumnarDecoder(
                self._loaded.event_schema,
                registry.schema_text,
                json_allowed="json" in config.event.formats,
                max_bytes=config.limits.max_event_bytes,
            ),
            ColumnarEncoder(schema, schema_id),
            online=online,
            metrics=self._metrics,
            max_output_bytes=max_output_bytes,
        )

    def _make_online(self, config: PipelineConfig) -> OnlineStore | None:
        if not any(feature.feast for feature in config.features):
            return None
        store = OnlineStore(self._feast_dir, config)
        try:
            store.connect()
        except FeatureStoreUnavailable as exc:
            # The first start trains a model and fills the store later: events wait until then.
            logger.info("online store of %s is not there yet: %s", config.pipeline, exc)
        return store

    def _make_write_back(self, config: PipelineConfig) -> WriteBackThread | None:
        if config.feast is None or config.feast.write_back is None:
            return None
        # A store of its own: it must not share a connection with the reader.
        store = OnlineStore(self._feast_dir, config)
        section = config.feast.write_back
        return WriteBackThread(config.feast, section, self._layout, store, self._metrics)


def run(settings: IngestSettings, stop: threading.Event) -> int:
    """Run the service until ``stop`` is set or a loop fails.

    Returns
    -------
    The exit code: 0 after a stop, 1 if a loop failed.

    Raises
    ------
    ConfigError
        If a pipeline folder is wrong.
    """
    logging.getLogger("feast").setLevel(logging.WARNING)  # it logs every cache refresh
    registry = CollectorRegistry()
    families = LoopMetrics(registry), IngestFamilies(registry)
    pipelines = [load_pipeline(Path(folder)) for folder in settings.pipelines]
    threads = [PipelineLoop(loaded, settings, families).thread(stop) for loaded in pipelines]
    return run_loops(
        threads,
        stop,
        host=settings.metrics_host,
        port=settings.metrics_port,
        metrics=lambda: generate_latest(registry),
        drain_timeout_s=settings.loop.drain_timeout_s,
    )
