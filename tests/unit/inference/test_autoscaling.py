"""Serve's side of autoscaling: what replicas report, what the policy gets, what is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness.tiny_pipeline import NAME, write_folder
from penstock_inference.app import Applications
from penstock_inference.autoscaling import DrainPolicy, serve_config
from penstock_inference.run_facts import want_replicas
from penstock_inference.scaling import AutoscalingSettings, backlog_of, figures
from penstock_inference.settings import InferenceSettings
from penstock_pipelines.loader import load_pipeline
from penstock_streaming.flow import Flow
from penstock_streaming.lag import Backlog
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve._private.common import DeploymentID, TimeStampedValue
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingContext

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
