"""The small pipeline of `harness.ingest`, built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.ingest import EVENT_SCHEMA, PIPELINE, VECTOR_ID, Online, Registry
from penstock_ingest.metrics import IngestFamilies, IngestMetrics
from penstock_ingest.pipeline import IngestPipeline
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder
from penstock_schemas.schema_files import schema_text
from prometheus_client import CollectorRegistry


@pytest.fixture
def config() -> PipelineConfig:
    return PipelineConfig.model_validate(PIPELINE)


@pytest.fixture
def metrics() -> IngestMetrics:
    return IngestMetrics(IngestFamilies(CollectorRegistry()), "tiny")


@pytest.fixture
def online() -> Online:
    return Online()


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def make_pipeline(online: Online, registry: Registry, metrics: IngestMetrics) -> Callable[..., Any]:
    def make(config: PipelineConfig) -> IngestPipeline:
        return IngestPipeline(
            config,
            ColumnarDecoder(
                EVENT_SCHEMA,
                registry,
                json_allowed="json" in config.event.formats,
                max_bytes=config.limits.max_event_bytes,
            ),
            ColumnarEncoder(schema_text("feature_vector.avsc"), VECTOR_ID),
            online=online,
            metrics=metrics,
            max_output_bytes=50_000,
        )

    return make


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Any], config: PipelineConfig) -> IngestPipeline:
    return make_pipeline(config)
