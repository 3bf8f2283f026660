"""The router: a Ray Serve replica that owns one Kafka loop.

A replica is a member of the consumer group. Serve gives placement, restart and scale; no event
passes through a Serve handle.
"""

from __future__ import annotations

import logging
import threading
import uuid

from penstock_pipelines.loader import LoadedPipeline
from penstock_pipelines.model import PipelineConfig, live_settings
from penstock_pipelines.watch import PipelineWatch
from penstock_registry.schema_registry import RegistryClient
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_schemas.errors import RetryableError
from penstock_schemas.schema_files import projection, schema_text
from penstock_service.logs import configure_logging
from penstock_service.loop_thread import collect_seldom
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.processor import Processor
from penstock_streaming.settings import LoopSettings
from prometheus_client import CollectorRegistry

from penstock_inference.autoscaling import figures
from penstock_inference.metrics import InferenceFamilies, InferenceMetrics
from penstock_inference.model_manager import ModelManager
from penstock_inference.predictions import Signature
from penstock_inference.publisher import PredictionPublisher
from penstock_inference.replicas import Heartbeat, ReportStore
from penstock_inference.scoring import DataPlane, ServingState
from penstock_inference.settings import InferenceSettings
from penstock_inference.shadows import SLICE_ROWS, Shadows
from penstock_inference.stream import Codecs, InferenceHandler
from penstock_inference.triton import TritonServer

logger = logging.getLogger(__name__)

SERVICE = "inference"
INPUT_FIELDS = ("event_id", "event_time", "origin", "features")
"""What is read of a FeatureVector: anything that writes these may write a features topic."""
DRAIN_S = 8.0
"""Time for the loop to finish and commit when the replica is shut down, seconds."""


class Router:
    """One replica: consumer, model connection and transactional producer in a thread of its own.

    Parameters
    ----------
    settings
        Of the service.
    pipeline
        The pipeline whose features topic it reads.
    reports
        Where it reports itself; None outside a deployment.
    """

    def __init__(
        self,
        settings: InferenceSettings,
        pipeline: LoadedPipeline,
        reports: ReportStore | None = None,
    ) -> None:
        configure_logging(SERVICE, settings.log_level)
        self._settings = settings
        self._pipeline = pipeline
        self._attempt = uuid.uuid4().hex
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._processor: Processor | None = None
        registry = CollectorRegistry()
        self._loop_metrics = LoopMetrics(registry)
        reloads = self._loop_metrics.reloads
        self._watch = PipelineWatch(
            pipeline, lambda result: reloads.labels(pipeline.config.pipeline, result).inc()
        )
        self._metrics = InferenceMetrics(InferenceFamilies(registry), pipeline.config.pipeline)
        self._server = TritonServer(settings.triton)
        self._registry = RegistryClient(settings.registry)
        self._shadows: Shadows | None = None
        self._serving = ServingState(pipeline.config.pipeline, self._metrics)
        self._manager = ModelManager.of_pipeline(
            pipeline.config, settings.kafka, self._registry, self._server, self._serving
        )
        self._thread = threading.Thread(target=self._run, name="kafka-loop", daemon=True)
        self._manager.start_threads()
        self._thread.start()
        self._heartbeat: Heartbeat | None = None
        if reports is not None:
            name = pipeline.config.pipeline
            self._heartbeat = Heartbeat(reports, name, registry, lambda: self.ready)

    def check_health(self) -> None:
        """Answer Serve's question; an exception has the replica replaced.

        Raises
        ------
        RuntimeError
            If the loop has ended or does not turn.
        """
        if self._stop.is_set():
            return
        if not self._thread.is_alive():
            raise RuntimeError(f"the loop has ended: {self._failure}")
        processor = self._processor
        if processor is not None and processor.heartbeat_age_s > self._settings.stuck_after_s:
            raise RuntimeError(f"the loop has not turned for {processor.heartbeat_age_s:.0f} s")

    @property
    def ready(self) -> bool:
        """Whether this replica takes records."""
        processor = self._processor
        return processor is not None and processor.ready and self._manager.ready

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Answer Serve's question for what the number of replicas depends on."""
        processor = self._processor
        return {} if processor is None else figures(processor.backlog)

    def close(self) -> None:
        """Finish what is in flight, commit, leave the group; bounded by `DRAIN_S`."""
        self._stop.set()
        if self._processor is not None:
            self._processor.stop()
        self._thread.join(DRAIN_S)
        self._manager.stop_threads()
        if self._shadows is not None:
            self._shadows.stop_thread()
        self._server.close()
        if self._heartbeat is not None:
            self._heartbeat.close()

    def __del__(self) -> None:
        """Drain; Serve calls this, once, when it shuts a replica down."""
        if not self._stop.is_set():
            self.close()

    def _run(self) -> None:
        try:
            handler = self._when_ready()
            if handler is not None:
                self._processor = self._make_processor(handler)
                if not self._stop.is_set():
                    collect_seldom()
                    self._processor.run()
        except BaseException as exc:
            self._failure = exc
            logger.exception("the loop has ended")

    def _when_ready(self) -> InferenceHandler | None:
        """Wait for registry, routing state and model; None when asked to stop before."""
        while not self._stop.is_set():
            try:
                if self._manager.ready:
                    return self._make_handler()
            except RetryableError as exc:
                logger.warning("not started yet: %s", exc)
                self._stop.wait(exc.retry_after_s)
            self._stop.wait(0.1)
        return None

    def _make_handler(self) -> InferenceHandler:
        config = self._pipeline.config
        topics = config.topic_names
        text = schema_text("prediction.avsc")
        schema_id = self._registry.register(f"{topics.predictions}-value", text)
        resolve = self._registry.schema_text
        signature = Signature.of_pipeline(config, self._settings.threshold, self._attempt)
        self._shadows = Shadows(
            self._settings.shadow,
            self._server,
            self._shadow_publisher,
            signature,
            self._metrics,
            self._serving.breakers,
        )
        self._shadows.start_thread()
        return InferenceHandler(
            output_topic=topics.predictions,
            codecs=Codecs(
                ColumnarDecoder(projection("feature_vector.avsc", INPUT_FIELDS), resolve),
                ColumnarEncoder(text, schema_id),
            ),
            plane=DataPlane(self._server, self._serving, config.model.timeout_s),
            shadows=self._shadows,
            deadline_ms=lambda: self._watch.current.batching.deadline_ms,
            signature=signature,
            metrics=self._metrics,
        )

    def _shadow_publisher(self) -> PredictionPublisher:
        return PredictionPublisher(
            self._settings.kafka,
            self._registry,
            self._pipeline.config.topic_names.predictions_shadow,
            queue_rows=self._settings.shadow.queue_rows,
            dropped=lambda rows: self._metrics.shadow_dropped("delivery", rows),
            rows_at_once=SLICE_ROWS,
        )

    def _make_processor(self, handler: InferenceHandler) -> Processor:
        pipeline = self._pipeline.config.pipeline
        return Processor(
            kafka=self._settings.kafka,
            group_id=f"penstock-{SERVICE}-{pipeline}",
            input_topic=self._pipeline.config.topic_names.features,
            handler=handler,
            service=SERVICE,
            transactional_id=f"penstock-{SERVICE}-{pipeline}-{self._attempt}",
            loop=self._loop_settings(self._watch.current),
            metrics=self._loop_metrics,
            retune=lambda: self._loop_settings(self._watch.config()),
        )

    def _loop_settings(self, config: PipelineConfig) -> LoopSettings:
        """Return the loop's settings with what pipeline.yaml decides."""
        settings = self._settings
        return settings.loop.model_copy(
            update={
                **live_settings(config.batching, config.limits),
                "journal_dir": settings.run_dir / "flights",
            }
        )
