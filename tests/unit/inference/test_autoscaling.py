"""How many replicas: enough to drain, no more than partitions, and no flapping."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from harness.models import NAME, write_folder
from penstock_inference.autoscaling import (
    DrainPolicy,
    Load,
    Memory,
    backlog_of,
    bounds,
    decide,
    figures,
    serve_config,
)
from penstock_inference.deployment import Applications
from penstock_inference.replicas import want_replicas
from penstock_inference.settings import AutoscalingSettings, InferenceSettings
from penstock_pipelines.loader import load_pipeline
from penstock_streaming.lag import Backlog, Flow, FlowMeter
from pydantic import ValidationError
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve._private.common import DeploymentID, TimeStampedValue
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingContext

DECIDED_BY = AutoscalingSettings(
    enabled=True, max_replicas=8, target_drain_s=60.0, up_cooldown_s=30.0, down_cooldown_s=120.0
)
TICK_S = 1.0
START_S = 20.0
"""Time that a new replica needs before its partitions are measured, seconds."""


def load(lag: int, arrived: float, consumed: float, replicas: int = 1, partitions: int = 4) -> Load:
    """Spread a flow over replicas; the last own nothing where partitions are few."""
    workers = min(replicas, partitions)
    owned = [partitions // workers + (i < partitions % workers) for i in range(workers)]
    owned += [0] * (replicas - workers)
    flow = Flow(lag // workers, arrived / workers, consumed / workers)
    nothing = Flow(0, 0.0, 0.0)
    return Load(
        replicas, tuple(Backlog(flow if own else nothing, partitions, own, own) for own in owned)
    )


def with_first(found: Load, **changes: object) -> Load:
    first, *others = found.members
    return replace(found, members=(replace(first, **changes), *others))  # type: ignore[arg-type]


GROWING = load(lag=50_000, arrived=800.0, consumed=400.0)


def test_a_backlog_that_grows_asks_for_what_would_drain_it_in_time() -> None:
    number, memory = decide(GROWING, 1, DECIDED_BY, 100.0, Memory())
    assert number == 2, "the number doubles at most"
    assert memory.strength_per_s == 400.0
    twice = load(lag=50_000, arrived=800.0, consumed=800.0, replicas=2, partitions=6)
    number, _ = decide(twice, 2, DECIDED_BY, 200.0, memory)
    assert number == 4


def test_a_backlog_that_drains_in_time_is_left_alone() -> None:
    found = load(lag=10_000, arrived=100.0, consumed=400.0)
    assert decide(found, 1, DECIDED_BY, 100.0, Memory())[0] == 1


def test_never_more_replicas_than_partitions() -> None:
    assert decide(load(10**6, 800.0, 400.0, 1, 1), 1, DECIDED_BY, 100.0, Memory())[0] == 1
    assert bounds(50, 3, DECIDED_BY) == 3
    assert bounds(50, 0, DECIDED_BY) == DECIDED_BY.max_replicas, "partitions not known yet"
    assert bounds(1, 2, replace_settings(min_replicas=4)) == 2


def replace_settings(**changes: float) -> AutoscalingSettings:
    return AutoscalingSettings(**{**DECIDED_BY.model_dump(), **changes})


def test_a_number_outside_of_the_bounds_is_corrected_at_once() -> None:
    number, memory = decide(load(0, 10.0, 10.0, 6, 4), 6, DECIDED_BY, 100.0, Memory())
    assert number == 4
    assert memory.changed_s == 100.0
    assert decide(GROWING, 1, replace_settings(min_replicas=3), 1.0, Memory())[0] == 3


@pytest.mark.parametrize(
    "found",
    [
        with_first(GROWING, paused=True),
        with_first(GROWING, measured=3),
        with_first(GROWING, owned=3),
        Load(1, ()),
        replace(GROWING, replicas=2),
        load(lag=50_000, arrived=800.0, consumed=0.0),
    ],
    ids=["outage", "just taken over", "rebalance", "silent", "starting", "no progress"],
)
def test_nothing_changes_while_more_replicas_would_not_help_or_too_little_is_known(
    found: Load,
) -> None:
    number, memory = decide(found, 1, DECIDED_BY, 1_000.0, Memory(calm_since_s=0.0))
    assert number == 1
    assert memory.calm_since_s is None


def test_two_changes_up_are_a_cool_down_apart() -> None:
    number, memory = decide(GROWING, 1, DECIDED_BY, 100.0, Memory())
    assert number == 2
    still = load(lag=60_000, arrived=1_600.0, consumed=800.0, replicas=2)
    assert decide(still, 2, DECIDED_BY, 129.0, memory)[0] == 2
    assert decide(still, 2, DECIDED_BY, 130.0, memory)[0] == 4


def test_a_replica_goes_only_after_a_calm_time_and_where_the_rest_can_do_it() -> None:
    calm = load(lag=10, arrived=200.0, consumed=200.0, replicas=2)
    memory = Memory(strength_per_s=400.0)
    number, memory = decide(calm, 2, DECIDED_BY, 1_000.0, memory)
    assert number == 2
    assert decide(calm, 2, DECIDED_BY, 1_119.0, memory)[0] == 2
    number, _ = decide(calm, 2, DECIDED_BY, 1_120.0, memory)
    assert number == 1
    busy = load(lag=10, arrived=390.0, consumed=390.0, replicas=2)
    assert decide(busy, 2, DECIDED_BY, 9_999.0, memory)[0] == 2


def test_a_backlog_begins_the_calm_time_anew() -> None:
    calm = load(lag=10, arrived=200.0, consumed=200.0, replicas=2)
    _, memory = decide(calm, 2, DECIDED_BY, 1_000.0, Memory())
    behind = load(lag=5_000, arrived=200.0, consumed=400.0, replicas=2)
    _, memory = decide(behind, 2, DECIDED_BY, 1_100.0, memory)
    _, memory = decide(calm, 2, DECIDED_BY, 1_110.0, memory)
    assert decide(calm, 2, DECIDED_BY, 1_200.0, memory)[0] == 2


def test_settings_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_replicas is more than max_replicas"):
        AutoscalingSettings(min_replicas=3, max_replicas=2)


@dataclass
class SimulatedGroup:
    """Partitions that fill at a rate, and replicas of a given strength that empty them."""

    partitions: int
    strength: float
    noise: random.Random
    wanted: int = 1
    now_s: float = 0.0
    memory: Memory = field(default_factory=Memory)
    changes: list[tuple[float, int]] = field(default_factory=list)
    lag_most: int = 0

    def __post_init__(self) -> None:
        self.end = [0.0] * self.partitions
        self.done = [0.0] * self.partitions
        self._rebalance()

    def _rebalance(self) -> None:
        self.meters = [FlowMeter() for _ in range(self.partitions)]
        self.changed_s = self.now_s

    def run(self, seconds: int, arrival: Callable[[float], float]) -> None:
        for _ in range(seconds):
            self.now_s += TICK_S
            self._work(arrival(self.now_s) * self.noise.uniform(0.7, 1.3))
            number, self.memory = decide(
                self._load(), self.wanted, DECIDED_BY, self.now_s, self.memory
            )
            if number != self.wanted:
                self.changes.append((self.now_s, number))
                self.wanted = number
                self._rebalance()

    def _owner(self, partition: int) -> int:
        return partition % min(self.wanted, self.partitions)

    def _work(self, arrived: float) -> None:
        is_moving = self.now_s - self.changed_s < 3.0
        for p in range(self.partitions):
            self.end[p] += arrived / self.partitions
        for owner in range(min(self.wanted, self.partitions)):
            mine = [p for p in range(self.partitions) if self._owner(p) == owner]
            left = 0.0 if is_moving else self.strength * self.noise.uniform(0.9, 1.1)
            for p in sorted(mine, key=lambda p: self.done[p] - self.end[p]):
                step = min(self.end[p] - self.done[p], left)
                self.done[p] += step
                left -= step
        for p, meter in enumerate(self.meters):
            if not is_moving:
                meter.measure(self.now_s, int(self.end[p]), int(self.done[p]))
        self.lag_most = max(self.lag_most, int(sum(self.end) - sum(self.done)))

    def _load(self) -> Load:
        members = []
        is_started = self.now_s - self.changed_s >= START_S
        for replica in range(self.wanted):
            mine = [p for p in range(self.partitions) if self._owner(p) == replica]
            flows = [f for p in mine if (f := self.meters[p].flow()) is not None]
            together = Flow(
                sum(f.lag for f in flows),
                sum(f.arrived_per_s for f in flows),
                sum(f.consumed_per_s for f in flows),
            )
            measured = len(flows) if is_started else 0
            members.append(Backlog(together, self.partitions, len(mine), measured))
        return Load(self.wanted, tuple(members))


@pytest.mark.parametrize("seed", range(4))
def test_a_wave_is_met_with_few_changes_and_no_flapping(seed: int) -> None:
    """Three times what one replica can do for twenty minutes, then a tenth of it."""
    simulated = SimulatedGroup(12, 1_000.0, random.Random(seed))
    simulated.run(300, lambda t: 400.0)
    assert simulated.changes == [], "a load that one replica does needs no second"
    simulated.run(1_200, lambda t: 3_000.0)
    assert 4 <= simulated.wanted <= 7, simulated.changes
    ups = list(simulated.changes)
    assert [n for _, n in ups] == sorted(n for _, n in ups), "up only, while it is much"
    assert len(ups) <= 4
    assert sum(simulated.end) - sum(simulated.done) < 3 * 3_000, "drained"
    simulated.run(3_000, lambda t: 100.0)
    downs = simulated.changes[len(ups) :]
    assert simulated.wanted == 1, simulated.changes
    assert [n for _, n in downs] == sorted((n for _, n in downs), reverse=True), "down only"


@pytest.mark.parametrize("seed", range(4))
def test_a_load_at_the_edge_does_not_flap(seed: int) -> None:
    """What two replicas do and one does not: there are two, whatever the noise."""
    simulated = SimulatedGroup(4, 1_000.0, random.Random(seed))
    simulated.run(3_600, lambda t: 1_100.0)
    assert simulated.wanted == 2
    assert len(simulated.changes) <= 2, simulated.changes


SETTINGS = AutoscalingSettings(enabled=True, up_cooldown_s=0.0, down_cooldown_s=60.0)
BEHIND = Backlog(Flow(50_000, 800.0, 400.0), partitions=4, owned=4, measured=4)


def context(report: dict[str, float] | None, **changes: Any) -> AutoscalingContext:
    """Return what Serve hands to a policy; two values of each figure, the newer one last."""
    deployment = DeploymentID("Router", "router-tiny")
    series = {
        name: {"replica": [TimeStampedValue(1.0, -1.0), TimeStampedValue(2.0, value)]}
        for name, value in (report or {}).items()
    }
    given: dict[str, Any] = {
        "deployment_id": deployment,
        "deployment_name": deployment.name,
        "app_name": deployment.app_name,
        "current_num_replicas": 1,
        "target_num_replicas": 1,
        "running_replicas": [],
        "total_num_requests": 0.0,
        "total_queued_requests": 0.0,
        "aggregated_metrics": lambda: {},
        "raw_metrics": lambda: series,
        "capacity_adjusted_min_replicas": 1,
        "capacity_adjusted_max_replicas": 8,
        "policy_state": {},
        "last_scale_up_time": None,
        "last_scale_down_time": None,
        "current_time": 1_000.0,
        "config": serve_config(SETTINGS),
    }
    return AutoscalingContext(**(given | changes))


def test_a_report_is_numbers_and_comes_back_as_it_was() -> None:
    report = figures(BEHIND)
    assert all(type(value) is float for value in report.values())
    assert backlog_of(report) == BEHIND


def test_policy_as_serve_loads_and_calls_it() -> None:
    """Serve pickles the class, makes an object of it in its controller and wraps its call."""
    policy = _apply_autoscaling_config(_resolve_policy_callable(serve_config(SETTINGS).policy))
    number, state = policy(context(figures(BEHIND)))
    assert number == 2
    assert state["penstock"]["changed_s"] == 1_000.0
    grown = figures(Backlog(Flow(0, 10.0, 10.0), 4, 4, 4))
    calm, state = policy(context(grown, policy_state=state, current_time=1_001.0))
    assert calm == 1
    assert state["penstock"]["calm_since_s"] == 1_001.0


@pytest.mark.parametrize("report", [None, {}, {"other": 3.0}])
def test_policy_leaves_replicas_that_say_nothing(report: dict[str, float] | None) -> None:
    assert DrainPolicy(**SETTINGS.model_dump())(context(report, target_num_replicas=3))[0] == 3


@pytest.fixture
def settings(tmp_path: Path) -> InferenceSettings:
    return InferenceSettings(run_dir=tmp_path / "run", autoscaling=SETTINGS)


def router_config(settings: InferenceSettings, folder: Path) -> Any:
    applications = Applications(settings, [load_pipeline(folder)])
    applications.scale = applications._wanted()
    return applications._router(
        applications.pipelines[0]
    ).target._bound_deployment._deployment_config


def test_a_deployment_scales_itself_only_where_the_settings_say_so(
    settings: InferenceSettings, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path)
    found = router_config(settings, folder).autoscaling_config
    assert (found.min_replicas, found.max_replicas) == (1, 8)
    fixed = settings.model_copy(update={"autoscaling": AutoscalingSettings(), "replicas": 3})
    config = router_config(fixed, folder)
    assert (config.autoscaling_config, config.num_replicas) == (None, 3)


def test_a_number_given_by_hand_holds_until_it_is_taken_back(
    settings: InferenceSettings, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path)
    want_replicas(settings.run_dir, NAME, 2)
    config = router_config(settings, folder)
    assert (config.autoscaling_config, config.num_replicas) == (None, 2)
    want_replicas(settings.run_dir, NAME, 0)
    assert router_config(settings, folder).autoscaling_config is not None
