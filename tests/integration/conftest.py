"""Where integration tests find the infrastructure, and what they make on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness.loop import MakeGroup, WorkerGroup
from harness.replay import ReplayedPipeline
from harness.stack import ModelServer
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_streaming.settings import KafkaSettings

if TYPE_CHECKING:
    from penstock_training_job.job import Addresses


@pytest.fixture
def kafka(kafka_bootstrap: str) -> KafkaSettings:
    """Return the settings of a client of the broker."""
    return KafkaSettings(bootstrap_servers=kafka_bootstrap)


@pytest.fixture
def registry(registry_url: str) -> RegistryClient:
    """Return a client of the registry."""
    return RegistryClient(RegistrySettings(url=registry_url))


@pytest.fixture(scope="session")
def places(
    kafka_bootstrap: str, registry_url: str, mlflow_url: str, model_server: ModelServer
) -> Addresses:
    """Return the addresses that the training job is given."""
    from penstock_training_job.job import Addresses  # with what it trains with

    return Addresses(kafka_bootstrap, registry_url, mlflow_url, *model_server)


@pytest.fixture
def make_group(kafka_bootstrap: str) -> Iterator[MakeGroup]:
    """Return a maker of groups of loop workers, on topics of their own."""
    with ExitStack() as closing:

        def make(**facts: Any) -> WorkerGroup:
            made = WorkerGroup(kafka_bootstrap, **facts)
            closing.callback(made.close)
            return made

        yield make


@pytest.fixture
def group(make_group: MakeGroup) -> WorkerGroup:
    """Return a group of loop workers on three partitions."""
    return make_group()


@pytest.fixture
def replayed(kafka_bootstrap: str, registry_url: str, tmp_path: Path) -> Iterator[ReplayedPipeline]:
    """Return a pipeline with topics of events and dead letters, and the command line beside it."""
    made = ReplayedPipeline(kafka_bootstrap, registry_url, tmp_path)
    yield made
    made.close()
