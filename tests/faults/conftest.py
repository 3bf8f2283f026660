"""Where fault tests find their infrastructure, and pipelines that are cleaned up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.fault_pipeline import VERDICTS, ServedPipeline
from harness.services import ServiceAddresses
from harness.stack import Cluster, ModelServer, Stack, free_offset, infrastructure

MakePipeline = Callable[..., ServedPipeline]
MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def addresses(
    kafka_bootstrap: str, registry_url: str, model_server: ModelServer
) -> ServiceAddresses:
    """Return Kafka, registry and Triton as all tests share them."""
    return ServiceAddresses(kafka_bootstrap, registry_url, *model_server)


@pytest.fixture
def make_pipeline(addresses: ServiceAddresses, tmp_path: Path) -> Iterator[MakePipeline]:
    """Return a maker of pipelines, with another cluster or model server than the shared ones."""
    with ExitStack() as closing:
        made = 0

        def make(
            kafka: str | None = None, triton: Stack | None = None, **facts: Any
        ) -> ServedPipeline:
            nonlocal made
            made += 1
            root = tmp_path / f"pipeline{made}"
            root.mkdir()
            chosen = addresses
            if kafka:
                chosen = replace(chosen, kafka=kafka)
            if triton:
                grpc, models_dir = triton.model_server
                chosen = replace(chosen, triton_grpc=grpc, models_dir=models_dir)
            pipeline = ServedPipeline(chosen, root, **facts)
            closing.callback(pipeline.close)
            return pipeline

        yield make


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> ServedPipeline:
    """Return a pipeline on what all tests share."""
    return make_pipeline()


@pytest.fixture(scope="module")
def own_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Return a model server of a module's own, which it may kill or give bad models."""
    with infrastructure(tmp_path_factory.mktemp("triton"), free_offset(), "triton") as running:
        yield running


@pytest.fixture
def own_pipeline(own_triton: Stack, make_pipeline: MakePipeline) -> ServedPipeline:
    """Return a pipeline whose routers ask that model server."""
    return make_pipeline(triton=own_triton)


@pytest.fixture
def make_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeCluster]:
    """Return a maker of Kafka clusters of the test's own, which it may do anything to."""
    with ExitStack() as closing:

        def make(**facts: Any) -> Cluster:
            return closing.enter_context(Cluster(tmp_path_factory.mktemp("kafka"), **facts))

        yield make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was judged, whether it passed or not."""
    if VERDICTS:
        terminalreporter.section("faults")
        for verdict in VERDICTS:
            terminalreporter.line(verdict)
