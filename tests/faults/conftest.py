"""Where fault tests find their infrastructure, and worlds that are cleaned up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.fault_pipeline import VERDICTS, FaultWorld
from harness.services import ServicePlaces
from harness.stack import Cluster, Stack, free_offset, infrastructure
from harness.waiting import Background, background_calls

MakeWorld = Callable[..., FaultWorld]
MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def fault_places(request: pytest.FixtureRequest) -> ServicePlaces:
    """Return Kafka, registry and Triton: PENSTOCK_TEST_TRITON and the others, else the stack's."""
    kafka = str(request.getfixturevalue("kafka_bootstrap"))
    registry = str(request.getfixturevalue("registry_url"))
    triton = os.environ.get("PENSTOCK_TEST_TRITON")
    if triton:  # host:port,repository
        grpc, _, models_dir = triton.partition(",")
        return ServicePlaces(kafka, registry, grpc, Path(models_dir))
    stack = request.getfixturevalue("stack")
    return ServicePlaces(kafka, registry, stack.triton_grpc_url, stack.models_dir)


@pytest.fixture
def make_world(fault_places: ServicePlaces, tmp_path: Path) -> Iterator[MakeWorld]:
    """Return a maker of worlds, with another cluster or model server than the shared ones."""
    with ExitStack() as closing:
        made = 0

        def make(kafka: str | None = None, triton: Stack | None = None, **facts: Any) -> FaultWorld:
            nonlocal made
            made += 1
            root = tmp_path / f"world{made}"
            root.mkdir()
            places = fault_places
            if kafka:
                places = replace(places, kafka=kafka)
            if triton:
                grpc, models_dir = triton.triton_grpc_url, triton.models_dir
                places = replace(places, triton_grpc=grpc, models_dir=models_dir)
            world = FaultWorld(places, root, **facts)
            closing.callback(world.close)
            return world

        yield make


@pytest.fixture(scope="module")
def own_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Return a model server of a module's own, which it may kill or give bad models."""
    with infrastructure(tmp_path_factory.mktemp("triton"), free_offset(), "triton") as running:
        yield running


@pytest.fixture
def own_world(own_triton: Stack, make_world: MakeWorld) -> FaultWorld:
    """Return a world whose routers ask that model server."""
    return make_world(triton=own_triton)


@pytest.fixture
def make_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeCluster]:
    """Return a maker of Kafka clusters of the test's own, which it may do anything to."""
    with ExitStack() as closing:

        def make(**facts: Any) -> Cluster:
            cluster = Cluster(tmp_path_factory.mktemp("kafka"), **facts)
            closing.callback(cluster.close)
            cluster.start()
            return cluster

        yield make


@pytest.fixture
def in_background() -> Iterator[Background]:
    """Return a function that runs a call in a thread."""
    with background_calls() as start:
        yield start


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was judged, whether it passed or not."""
    if VERDICTS:
        terminalreporter.section("faults")
        for verdict in VERDICTS:
            terminalreporter.line(verdict)
