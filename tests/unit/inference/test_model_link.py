from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
from harness.inference_fakes import WIDTH, version
from penstock_inference.metrics import InferenceMetrics
from penstock_inference.model_link import ModelLink
from penstock_inference.routing import serving
from penstock_inference.triton import ServedModel
from penstock_schemas.errors import ConfigError, ModelUnavailable
from penstock_schemas.records import ModelVersion, RoutingState


class FakeServer:
    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.loads: list[str] = []
        self.is_away = False
        self.width = WIDTH

    def ready(self, name: str) -> bool:
        return not self.is_away and name in self.loaded

    def load(self, name: str) -> None:
        self.loads.append(name)
        if self.is_away:
            raise ModelUnavailable("away")
        self.loaded.add(name)

    def describe(self, name: str) -> ServedModel:
        if name not in self.loaded:
            raise ModelUnavailable("not loaded")
        return ServedModel(name, self.width, max_rows=1024)


def state(revision: int, *versions: ModelVersion) -> RoutingState:
    return RoutingState("tiny", revision, 0, "test", versions or (version(),))


def nothing(stop: Event, on_state: Callable[[RoutingState], Any]) -> None:
    """Follow no topic: the test hands in the states."""


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def link(server: FakeServer, metrics: InferenceMetrics) -> ModelLink:
    return ModelLink(nothing, server, width=WIDTH, max_rows=256, metrics=metrics)


def test_version_serves_once_it_is_loaded(link: ModelLink, server: FakeServer) -> None:
    link.keep()
    assert link.route is None
    assert not link.ready
    link.on_state(state(1))
    assert link.route is None, "the state alone serves nothing"
    link.keep()
    assert link.ready
    assert link.route is not None
    assert link.route.model == ServedModel("tiny__1", WIDTH, max_rows=256)


def test_old_version_serves_until_the_new_one_is_ready(link: ModelLink, server: FakeServer) -> None:
    link.on_state(state(1))
    link.keep()
    server.is_away = True
    link.on_state(state(2, version("2")))
    with pytest.raises(ModelUnavailable):
        link.keep()
    assert link.route is not None
    assert link.route.version.version == "1"
    server.is_away = False
    link.keep()
    assert link.route.version.version == "2"


def test_model_lost_in_a_restart_is_loaded_again(link: ModelLink, server: FakeServer) -> None:
    link.on_state(state(1))
    link.keep()
    server.loaded.clear()
    server.loads.clear()
    link.keep()
    assert server.loads == ["tiny__1"]
    assert link.ready


def test_model_that_does_not_fit_the_pipeline_is_refused(
    link: ModelLink, server: FakeServer
) -> None:
    server.width = WIDTH + 1
    link.on_state(state(1))
    with pytest.raises(ConfigError):
        link.keep()
    assert link.route is None


def test_older_revision_is_ignored(link: ModelLink) -> None:
    link.on_state(state(5, version("5")))
    link.on_state(state(4, version("4")))
    link.keep()
    assert link.route is not None
    assert link.route.version.version == "5"


def test_version_by_number(link: ModelLink, server: FakeServer) -> None:
    challenger = version("2", alias="challenger", weight=0, state="shadow")
    retired = version("0", alias="", weight=0, state="retired")
    link.on_state(state(1, version(), challenger, retired))
    link.keep()
    with pytest.raises(ModelUnavailable):
        link.route_of("2")
    server.load("tiny__2")
    route = link.route_of("2")
    assert route is not None
    assert route.model.name == "tiny__2"
    assert link.route_of("0") is None
    assert link.route_of("9") is None


@pytest.mark.parametrize(
    "changes", [{"state": "retired"}, {"alias": "challenger"}, {"weight": 0}, {"state": "shadow"}]
)
def test_only_a_serving_champion_takes_traffic(changes: dict[str, Any]) -> None:
    assert serving(state(1, version("1", **changes))) is None
    assert serving(state(1, version("1", **changes), version("2"))) == version("2")
