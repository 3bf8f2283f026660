"""TODO."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

import numpy as np
import pytest
from harness.inference import WIDTH, mean_score, version
from penstock_inference.metrics import InferenceFamilies, InferenceMetrics
from penstock_inference.model_manager import ModelManager
from penstock_inference.model_server import (
    INPUT,
    Matrix,
    ModelServer,
    PendingScores,
    ServedModel,
    Tensors,
)
from penstock_inference.scoring import ServingState
from penstock_inference.traffic_split import serving
from penstock_schemas.errors import (
    ConfigError,
    ModelRejected,
    ModelUnavailable,
    PenstockError,
    ShapeMismatch,
)
from penstock_schemas.records import ModelVersion, RoutingState


class FakeServer(ModelServer):
    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.loads: list[str] = []
        self.is_away = False
        self.width = WIDTH
        self.broken: set[str] = set()
        self.dead: dict[str, PenstockError] = {}
        self.probes: list[tuple[str, list[float]]] = []
        self.reloads: list[str] = []
        self.score_widths: dict[str, int] = {}

    def model_ready(self, name: str) -> bool:
        return not self.is_away and name in self.loaded

    def load_model(self, name: str) -> None:
        self.loads.append(name)
        if self.is_away or name in self.broken:
            raise ModelUnavailable("away")
        self.loaded.add(name)

    def reload_model(self, name: str) -> None:
        self.reloads.append(name)
        self.loaded.discard(name)
        self.load_model(name)
        self.dead.pop(name, None)

    def infer(self, model: ServedModel, inputs: Tensors, timeout_s: float) -> Matrix:
        matrix = inputs[INPUT]
        self.probes.append((model.name, matrix[0].tolist()))
        if model.name in self.dead:
            raise self.dead[model.name]
        return mean_score(matrix)

    def start_inference(
        self, model: ServedModel, inputs: Tensors, timeout_s: float
    ) -> PendingScores:
        raise NotImplementedError

    def model_metadata(self, name: str) -> ServedModel:
        if name not in self.loaded:
            raise ModelUnavailable("not loaded")
        return ServedModel(name, self.width, 1024, self.score_widths.get(name, 1))


def state(revision: int, *versions: ModelVersion) -> RoutingState:
    return RoutingState("tiny", revision, 0, "test", versions or (version(),))


def nothing(stop: Event, on_state: Callable[[RoutingState], Any]) -> None:
    """Follow no topic: the test hands in the states."""


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def now() -> list[float]:
    return [1000.0]


@pytest.fixture
def manager(server: FakeServer, metrics: InferenceMetrics, now: list[float]) -> ModelManager:
    def clock() -> float:
        return now[0]

    serving_state = ServingState("tiny", metrics, clock)
    return ModelManager(nothing, server, serving_state, width=WIDTH, max_rows=256, clock=clock)


def canaried(revision: int = 2, weight: int = 10) -> RoutingState:
    champion = version("1", weight=100 - weight)
    return state(
        revision, champion, version("2", alias="challenger", weight=weight, state="canary")
    )


def served(manager: ModelManager) -> dict[str, float]:
    """Return the share of the keys of each version that serves."""
    table = manager.serving.table
    assert table is not None
    versions = [route.version.version for route in table.routes]
    return dict(zip(versions, table.weights, strict=True))


def shown(families: InferenceFamilies) -> dict[tuple[str, str], float]:
    """Return what the metric says: weight by version and variant."""
    samples = next(iter(families.weight.collect())).samples
    return {(s.labels["version"], s.labels["variant"]): s.value for s in samples}


def test_version_serves_once_it_is_loaded(manager: ModelManager, server: FakeServer) -> None:
    manager.reconcile()
    assert manager.champion is None
    assert not manager.ready
    manager.take_routing_state(state(1))
    assert manager.champion is None, "the state alone serves nothing"
    manager.reconcile()
    assert manager.ready
    assert manager.champion is not None
    assert manager.champion.model == ServedModel("tiny__1", WIDTH, max_rows=256)


def test_old_version_serves_until_the_new_one_is_ready(
    manager: ModelManager, server: FakeServer
) -> None:
    manager.take_routing_state(state(1))
    manager.reconcile()
    server.is_away = True
    manager.take_routing_state(state(2, version("2")))
    with pytest.raises(ModelUnavailable):
        manager.reconcile()
    assert manager.champion is not None
    assert manager.champion.version.version == "1"
    server.is_away = False
    manager.reconcile()
    assert manager.champion.version.version == "2"


def test_model_lost_in_a_restart_is_loaded_again(manager: ModelManager, server: FakeServer) -> None:
    manager.take_routing_state(state(1))
    manager.reconcile()
    server.loaded.clear()
    server.loads.clear()
    manager.reconcile()
    assert server.loads == ["tiny__1"]
    assert manager.ready


def test_model_that_does_not_fit_the_pipeline_is_refused(
    manager: ModelManager, server: FakeServer
) -> None:
    server.width = WIDTH + 1
    manager.take_routing_state(state(1))
    with pytest.raises(ConfigError):
        manager.reconcile()
    assert manager.champion is None


def test_older_revision_is_ignored(manager: ModelManager) -> None:
    manager.take_routing_state(state(5, version("5")))
    manager.take_routing_state(state(4, version("4")))
    manager.reconcile()
    assert manager.champion is not None
    assert manager.champion.version.version == "5"


def test_version_by_number(manager: ModelManager, server: FakeServer) -> None:
    challenger = version("2", alias="", weight=0, state="draining")
    retired = version("0", alias="", weight=0, state="retired")
    manager.take_routing_state(state(1, version(), challenger, retired))
    manager.reconcile()
    with pytest.raises(ModelUnavailable):
        manager.route_of("2")
    server.load_model("tiny__2")
    route = manager.route_of("2")
    assert route is not None
    assert route.model.name == "tiny__2"
    assert manager.route_of("0") is None
    assert manager.route_of("9") is None


@pytest.mark.parametrize(
    "changes", [{"state": "retired"}, {"alias": "challenger"}, {"weight": 0}, {"state": "shadow"}]
)
def test_only_a_serving_champion_takes_traffic(changes: dict[str, Any]) -> None:
    assert serving(state(1, version("1", **changes))) is None
    assert serving(state(1, version("1", **changes), version("2"))) == version("2")


def test_canary_is_loaded_and_takes_its_share(
    manager: ModelManager, server: FakeServer, families: InferenceFamilies
) -> None:
    manager.take_routing_state(state(1))
    manager.reconcile()
    manager.take_routing_state(canaried())
    manager.reconcile()
    assert server.loads == ["tiny__1", "tiny__2"], "what is loaded is not loaded again"
    assert served(manager) == {"1": 90.0, "2": 10.0}
    assert shown(families) == {("1", "champion"): 90.0, ("2", "canary"): 10.0}
    table = manager.serving.table
    assert table is not None
    assert table.revision == 2
    assert [route.variant for route in table.routes] == ["champion", "canary"]
    assert [route.model.max_rows for route in table.routes] == [256, 256]


def test_promotion_and_rejection_need_no_load(
    manager: ModelManager, server: FakeServer, families: InferenceFamilies
) -> None:
    manager.take_routing_state(canaried())
    manager.reconcile()
    server.broken = {"tiny__1", "tiny__2"}
    draining = version("1", alias="", weight=0, state="draining")
    manager.take_routing_state(state(3, version("2"), draining))
    manager.reconcile()
    assert served(manager) == {"2": 100.0}
    assert server.loaded == {"tiny__1", "tiny__2"}, "nothing is unloaded here"
    expected = {("1", "champion"): 0.0, ("2", "canary"): 0.0, ("2", "champion"): 100.0}
    assert shown(families) == expected
    drained = manager.route_of("1")
    assert drained is not None
    assert drained.model.name == "tiny__1"


@pytest.mark.parametrize("trouble", ["does not load", "other width of scores"])
def test_canary_that_cannot_serve_leaves_its_keys_to_the_champion(
    manager: ModelManager,
    server: FakeServer,
    families: InferenceFamilies,
    now: list[float],
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    def canary_out() -> float:
        return families.canary_out.labels("tiny", "tiny", "2")._value.get()

    if trouble == "does not load":
        server.broken.add("tiny__2")
    else:
        server.score_widths["tiny__2"] = 2
    manager.take_routing_state(canaried())
    manager.reconcile()
    manager.reconcile()
    assert manager.ready
    assert served(manager) == {"1": 100.0}
    assert server.loads.count("tiny__2") == 1, "the next try is a while away"
    assert canary_out() == 1
    assert [r.message for r in caplog.records if "canary tiny__2" in r.message] != []
    server.broken.clear()
    server.score_widths.clear()
    server.loaded.discard("tiny__2")
    now[0] += 1.0
    manager.reconcile()
    assert served(manager) == {"1": 90.0, "2": 10.0}
    assert canary_out() == 0


def test_canary_that_is_withdrawn_leaves_no_trouble(
    manager: ModelManager, server: FakeServer, families: InferenceFamilies
) -> None:
    server.broken.add("tiny__2")
    manager.take_routing_state(canaried())
    manager.reconcile()
    manager.take_routing_state(
        state(3, version(), version("2", alias="", weight=0, state="retired"))
    )
    manager.reconcile()
    assert families.canary_out.labels("tiny", "tiny", "2")._value.get() == 0
    assert served(manager) == {"1": 100.0}


def test_canary_lost_by_the_server_is_loaded_again(
    manager: ModelManager, server: FakeServer
) -> None:
    manager.take_routing_state(canaried())
    manager.reconcile()
    server.loaded.discard("tiny__2")
    manager.reconcile()
    assert server.loads == ["tiny__1", "tiny__2", "tiny__2"]
    assert served(manager) == {"1": 90.0, "2": 10.0}
    server.loaded.discard("tiny__2")
    server.broken.add("tiny__2")
    manager.reconcile()
    assert served(manager) == {"1": 100.0}
    assert manager.ready


def test_whole_old_revision_serves_until_the_new_champion_is_ready(
    manager: ModelManager, server: FakeServer
) -> None:
    manager.take_routing_state(canaried())
    manager.reconcile()
    server.broken.add("tiny__3")
    canary = version("2", alias="challenger", weight=20, state="canary")
    manager.take_routing_state(state(3, version("3", weight=80), canary))
    with pytest.raises(ModelUnavailable):
        manager.reconcile()
    assert served(manager) == {"1": 90.0, "2": 10.0}
    server.broken.clear()
    manager.reconcile()
    assert served(manager) == {"3": 80.0, "2": 20.0}


def test_version_that_takes_traffic_is_known_by_number(
    manager: ModelManager, server: FakeServer
) -> None:
    manager.take_routing_state(canaried())
    manager.reconcile()
    server.loaded.clear()
    route = manager.route_of("2")
    assert route is not None
    assert route.variant == "canary"


GOOD_ROW = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)


@pytest.mark.parametrize("error", [ModelRejected("not healthy"), ModelUnavailable("deadline")])
def test_model_whose_process_is_dead_is_loaded_anew(
    manager: ModelManager, server: FakeServer, now: list[float], error: PenstockError
) -> None:
    manager.take_routing_state(state(1))
    manager.reconcile()
    server.probes.clear()
    server.dead["tiny__1"] = error
    manager.reconcile()
    assert server.probes == [], "no row is sent while nothing is suspected"
    manager.serving.suspect_model("tiny__1", GOOD_ROW)
    manager.reconcile()
    assert server.probes == [("tiny__1", [1.0, 2.0, 3.0])] * 3
    assert server.reloads == ["tiny__1"]
    assert manager.ready
    server.dead["tiny__1"] = ModelRejected("dead again")
    manager.serving.suspect_model("tiny__1", None)
    manager.reconcile()
    assert server.reloads == ["tiny__1"], "at most once in a while"
    now[0] += 5.0
    manager.reconcile()
    assert server.reloads == ["tiny__1"] * 2
    assert server.probes[-1] == ("tiny__1", [0.0] * WIDTH), "zeros where no good row is known"


@pytest.mark.parametrize("answer", [None, ShapeMismatch("refused")])
def test_model_whose_process_lives_is_left_alone(
    manager: ModelManager, server: FakeServer, answer: PenstockError | None
) -> None:
    manager.take_routing_state(state(1))
    manager.reconcile()
    server.probes.clear()
    if answer is not None:
        server.dead["tiny__1"] = answer
    manager.serving.suspect_model("tiny__1", GOOD_ROW)
    manager.serving.suspect_model("tiny__9", None)
    manager.reconcile()
    manager.reconcile()
    assert server.reloads == []
    assert server.probes == [("tiny__1", [1.0, 2.0, 3.0])], "asked once, then believed"


def test_model_that_is_away_is_not_loaded_anew_but_loaded(
    manager: ModelManager, server: FakeServer
) -> None:
    manager.take_routing_state(state(1))
    manager.reconcile()
    server.loaded.clear()
    server.dead["tiny__1"] = ModelUnavailable("unloaded by another router")
    manager.serving.suspect_model("tiny__1", GOOD_ROW)
    manager.reconcile()
    assert server.reloads == []
    assert server.loads == ["tiny__1"] * 2


def test_canary_that_is_dead_for_good_leaves_its_keys(
    manager: ModelManager, server: FakeServer
) -> None:
    manager.take_routing_state(canaried())
    manager.reconcile()
    server.dead["tiny__2"] = ModelRejected("dead")
    server.broken.add("tiny__2")
    manager.serving.suspect_model("tiny__2", GOOD_ROW)
    manager.reconcile()
    assert server.reloads == ["tiny__2"]
    assert served(manager) == {"1": 100.0}
    assert manager.ready


def test_shadow_is_loaded_beside_and_holds_nothing_up(
    manager: ModelManager, server: FakeServer, now: list[float]
) -> None:
    shadow = version("9", alias="challenger", weight=0, state="shadow")
    server.broken.add("tiny__9")
    manager.take_routing_state(state(1, version(), shadow))
    manager.reconcile()
    assert manager.ready
    assert manager.serving.table is not None
    assert manager.serving.table.shadows == ()
    server.broken.clear()
    now[0] += 60.0
    manager.reconcile()
    assert [route.model.name for route in manager.serving.table.shadows] == ["tiny__9"]
    assert served(manager) == {"1": 100.0}


def test_new_version_is_warmed_with_rows_that_were_seen_before_it_serves(
    manager: ModelManager, server: FakeServer
) -> None:
    manager.take_routing_state(state(1))
    manager.reconcile()
    manager.serving.samples.keep_sample(GOOD_ROW)
    server.probes.clear()
    manager.take_routing_state(state(2, version("2")))
    sizes: list[int] = []

    def infer(model: ServedModel, inputs: Tensors, timeout_s: float) -> Matrix:
        matrix = inputs[INPUT]
        assert model.name == "tiny__2"
        assert served(manager) == {"1": 100.0}, "not before it is warm"
        assert (matrix == GOOD_ROW).all()
        sizes.append(len(matrix))
        return mean_score(matrix)

    server.infer = infer  # type: ignore[method-assign]
    manager.reconcile()
    assert sizes == [1, 16, 256]
    assert served(manager) == {"2": 100.0}


BAD_ANSWERS: dict[str, PenstockError | float] = {
    "rejects": ModelRejected("boom"),
    "refuses": ShapeMismatch("refused"),
    "slow": ModelUnavailable("deadline"),
    "nan": float("nan"),
}


@pytest.mark.parametrize("how", BAD_ANSWERS)
def test_version_that_fails_on_rows_that_were_seen_does_not_take_over(
    manager: ModelManager, server: FakeServer, how: str
) -> None:
    manager.take_routing_state(state(1))
    manager.reconcile()
    manager.serving.samples.keep_sample(GOOD_ROW)
    manager.take_routing_state(state(2, version("2")))
    answer = BAD_ANSWERS[how]

    def infer(model: ServedModel, inputs: Tensors, timeout_s: float) -> Matrix:
        if isinstance(answer, PenstockError):
            raise answer
        return np.full((len(inputs[INPUT]), 1), answer, np.float32)

    good, server.infer = server.infer, infer  # type: ignore[method-assign]
    with pytest.raises(ModelUnavailable, match="rows that were seen"):
        manager.reconcile()
    assert served(manager) == {"1": 100.0}
    server.infer = good  # type: ignore[method-assign]
    manager.reconcile()
    assert served(manager) == {"2": 100.0}


def test_first_version_serves_though_it_fails_on_zeros(
    manager: ModelManager, server: FakeServer
) -> None:
    server.dead["tiny__1"] = ModelRejected("no zeros, please")
    manager.take_routing_state(state(1))
    manager.reconcile()
    assert manager.ready
