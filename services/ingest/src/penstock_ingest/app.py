"""Wiring: builds the parts of each pipeline and runs their loops until told to stop."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from penstock_features.aggregate_layout import AggregateLayout
from penstock_features.aggregates import warm_up
from penstock_features.online import OnlineStore
from penstock_pipelines.batching import live_settings
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_pipelines.model import PipelineConfig
from penstock_pipelines.watch import PipelineWatch
from penstock_registry.client import RegistryClient
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_schemas.errors import FatalError, FeatureStoreUnavailable, RetryableError
from penstock_schemas.schema_files import schema_text
from penstock_service.health import serve_health
from penstock_streaming.garbage import collect_seldom
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.processor import Processor
from penstock_streaming.settings import LoopSettings
from penstock_streaming.timing import Deadline
from prometheus_client import CollectorRegistry, generate_latest

from penstock_ingest.changelog import StateChangelog
from penstock_ingest.handler import IngestHandler
from penstock_ingest.metrics import IngestFamilies, IngestMetrics
from penstock_ingest.pipeline import IngestPipeline
from penstock_ingest.settings import IngestSettings
from penstock_ingest.writeback import WriteBackThread

logger = logging.getLogger(__name__)
T = TypeVar("T")


def loop_settings(settings: IngestSettings, config: PipelineConfig) -> LoopSettings:
    """Return the loop's settings with what pipeline.yaml and the run folder decide."""
    return settings.loop.model_copy(
        update={
            **live_settings(config.batching, config.limits),
            "journal_dir": settings.run_dir and settings.run_dir / "flights",
        }
    )


class Worker:
    """The loop of one pipeline with everything it needs.

    Parameters
    ----------
    stop
        Set when the process should end; set by the worker when its loop fails.
    """

    def __init__(
        self,
        loaded: LoadedPipeline,
        settings: IngestSettings,
        families: tuple[LoopMetrics, IngestFamilies],
        stop: threading.Event,
    ) -> None:
        config = loaded.config
        self._loaded = loaded
        self._settings = settings
        self._stop = stop
        self._loop_metrics, ingest_families = families
        self._metrics = IngestMetrics(ingest_families, config.pipeline)
        self._layout = AggregateLayout(config)
        self._feast_dir = settings.feast_dir / config.pipeline
        self._write_back = self._make_write_back(config)
        self._processor: Processor | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=f"loop-{config.pipeline}")

    @property
    def is_ready(self) -> bool:
        """Tell whether the loop can work."""
        return self._processor is not None and self._processor.ready

    @property
    def is_live(self) -> bool:
        """Tell whether the loop has turned lately, or is still starting."""
        if self.error is not None:
            return False
        if self._processor is None:
            return True
        return self._processor.heartbeat_age_s < self._settings.stuck_after_s

    def stop(self) -> None:
        """Let the loop drain; returns at once."""
        if self._processor is not None:
            self._processor.stop()

    def _run(self) -> None:
        try:
            processor = self._make_processor()
            self._processor = processor
            if self._write_back is not None:
                self._write_back.start()
            if not self._stop.is_set():
                collect_seldom()
                processor.run()
        except BaseException as exc:
            self.error = exc
            if not isinstance(exc, Stopped):
                logger.exception("loop of %s failed", self._loaded.config.pipeline)
        finally:
            if self._write_back is not None:
                self._write_back.close()
            self._stop.set()

    def _make_processor(self) -> Processor:
        config, settings = self._loaded.config, self._settings
        loop = loop_settings(settings, config)
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
        pipeline = self._make_pipeline(config, loop.max_output_bytes)
        return Processor(
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

    def _make_pipeline(self, config: PipelineConfig, max_output_bytes: int) -> IngestPipeline:
        registry = RegistryClient(self._settings.registry)
        schema = schema_text("feature_vector.avsc")
        subject = f"{config.topic_names.features}-value"
        schema_id = self._wait_for(lambda: registry.register(subject, schema))
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

    def _wait_for(self, call: Callable[[], T]) -> T:
        """Repeat a call while what it needs is still starting."""
        deadline = Deadline(self._settings.start_timeout_s)
        while True:
            try:
                return call()
            except RetryableError as exc:
                if deadline.expired:
                    raise FatalError(f"gave up waiting at the start: {exc}") from exc
                logger.info("waiting at the start: %s", exc)
                if self._stop.wait(min(exc.retry_after_s, deadline.remaining_s)):
                    raise Stopped from exc


class Stopped(Exception):
    """The process was told to stop before its loop had started."""


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
    logging.getLogger("feast").setLevel(logging.WARNING)  # it tells of every cache refresh
    registry = CollectorRegistry()
    families = LoopMetrics(registry), IngestFamilies(registry)
    pipelines = [load_pipeline(Path(folder)) for folder in settings.pipelines]
    workers = [Worker(loaded, settings, families, stop) for loaded in pipelines]
    for worker in workers:
        worker.thread.start()
    with serve_health(
        settings.metrics_host,
        settings.metrics_port,
        live=lambda: all(worker.is_live for worker in workers),
        ready=lambda: all(worker.is_ready for worker in workers),
        metrics=lambda: generate_latest(registry),
    ):
        stop.wait()
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.thread.join(settings.loop.drain_timeout_s + 4.0)
    is_clean = all(w.error is None or isinstance(w.error, Stopped) for w in workers)
    return 0 if is_clean and not any(w.thread.is_alive() for w in workers) else 1
