"""What router and gateway make of settings and pipeline."""

from __future__ import annotations

from penstock_pipelines.loader import LoadedPipeline
from penstock_pipelines.model import PipelineConfig, live_settings
from penstock_registry.client import RegistryClient
from penstock_routing.topic import RoutingTopic
from penstock_streaming.settings import LoopSettings

from penstock_inference.metrics import InferenceMetrics
from penstock_inference.model_link import ModelLink
from penstock_inference.model_loader import ModelLoader
from penstock_inference.settings import InferenceSettings
from penstock_inference.triton import TritonServer


def link_to_model(
    settings: InferenceSettings,
    pipeline: LoadedPipeline,
    registry: RegistryClient,
    server: TritonServer,
    metrics: InferenceMetrics,
) -> ModelLink:
    """Return the link between a pipeline's routing topic and the model server, not started."""
    config = pipeline.config
    topic = RoutingTopic(settings.kafka, registry, config.topic_names.models, config.pipeline)
    models = ModelLoader(
        server, width=len(config.feature_names), max_rows=config.model.max_batch_rows
    )
    return ModelLink(topic.follow, models, metrics)


def threshold_of(settings: InferenceSettings, pipeline: LoadedPipeline) -> float:
    """Return the decision threshold in force."""
    return pipeline.config.threshold if settings.threshold is None else settings.threshold


def loop_settings(settings: InferenceSettings, config: PipelineConfig) -> LoopSettings:
    """Return the loop's settings with what pipeline.yaml decides."""
    return settings.loop.model_copy(
        update={
            **live_settings(config.batching, config.limits),
            "journal_dir": settings.run_dir / "flights",
        }
    )
