"""The fraud pipeline's configuration, made quick, and the reference of its synthetic stream."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.drift import make_training_reference
from penstock_monitoring.reference import Reference
from penstock_pipelines.loader import load_pipeline
from penstock_pipelines.model import PipelineConfig

FRAUD = Path(__file__).parents[3] / "pipelines" / "fraud"


@pytest.fixture(scope="session")
def fraud() -> PipelineConfig:
    """Return the pipeline as it is shipped."""
    return load_pipeline(FRAUD).config


@pytest.fixture(scope="session")
def config(fraud: PipelineConfig) -> PipelineConfig:
    """Return a pipeline whose drift is found in few rows."""
    monitor = fraud.monitor.model_copy(
        update={"window_rows": 500, "evidence_labels": 300, "reopen_labels": 8_000}
    )
    return fraud.model_copy(update={"monitor": monitor})


@pytest.fixture(scope="session")
def reference(fraud: PipelineConfig) -> Reference:
    """Return what the stream looks like without a change."""
    return make_training_reference(fraud.feature_names)
