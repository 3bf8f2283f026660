"""Ray Serve's autoscaling of the routers, decided by `scaling`.

Serve asks each replica for its figures, brings them to its controller and calls the policy there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from penstock_streaming.lag import Backlog
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from penstock_inference.scaling import AutoscalingSettings, Load, Memory, backlog_of, decide

MEMORY: Final = "penstock"
"""Name of our part of the state that Serve keeps for the policy."""


class DrainPolicy:
    """Serve's policy object; lives in Serve's controller, one per deployment.

    Parameters
    ----------
    settings
        The fields of `AutoscalingSettings`.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = AutoscalingSettings(**settings)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas, and what to remember.

        Parameters
        ----------
        context
            A `ray.serve.config.AutoscalingContext`.
        """
        memory = Memory(**context.policy_state.get(MEMORY, {}))
        load = Load(context.current_num_replicas, newest(context.raw_metrics or {}))
        wanted, now_s = context.target_num_replicas, context.current_time
        number, memory = decide(load, wanted, self._settings, now_s, memory)
        return number, {MEMORY: asdict(memory)}


def newest(series: Mapping[str, Mapping[Any, Any]]) -> tuple[Backlog, ...]:
    """Return the newest report of each replica.

    Parameters
    ----------
    series
        By name of a figure and by replica: its values, each with a time, oldest first.
    """
    found: dict[Any, dict[str, float]] = {}
    for name, replicas in series.items():
        for replica, values in replicas.items():
            if values:
                found.setdefault(replica, {})[name] = values[-1].value
    return tuple(backlog_of(report) for report in found.values() if "paused" in report)


def serve_config(settings: AutoscalingSettings) -> AutoscalingConfig:
    """Return Serve's configuration of a deployment that scales itself."""
    return AutoscalingConfig(
        min_replicas=settings.min_replicas,
        max_replicas=settings.max_replicas,
        # The policy has its own cool-downs: it alone knows when the load is fully known.
        upscale_delay_s=0.0,
        downscale_delay_s=0.0,
        policy=AutoscalingPolicy(
            policy_function=f"{__name__}:{DrainPolicy.__name__}",
            policy_kwargs=settings.model_dump(),
        ),
    )
