"""How many router replicas a pipeline needs, from what its replicas have before them. Pure.

The question is asked in rates, not in drain seconds: these jump between 0 and infinity around the
point where consumption equals arrival, while the strength of one replica, once seen, stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from penstock_streaming.lag import Backlog, Flow
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from penstock_inference.settings import AutoscalingSettings

NEWEST_SHARE: Final = 0.3
"""Weight of the newest measurement in what is known of a replica's strength."""
HEADROOM: Final = 0.7
"""Share of the replicas' strength that arrival may take where one of them is to go."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the replicas of one pipeline have before them, at one time.

    Parameters
    ----------
    replicas
        Replicas that run.
    members
        What each of those says that says anything.
    """

    replicas: int
    members: tuple[Backlog, ...]

    @property
    def partitions(self) -> int:
        """Partitions of the topic; 0 where nobody knows."""
        return max((m.partitions for m in self.members), default=0)

    @property
    def is_complete(self) -> bool:
        """Tell whether every partition has one owner, who knows its rates and is at work."""
        owned = sum(m.owned for m in self.members)
        return (
            len(self.members) == self.replicas
            and 0 < owned == self.partitions == sum(m.measured for m in self.members)
            and not any(m.paused for m in self.members)
        )

    @property
    def workers(self) -> int:
        """Replicas that own partitions."""
        return sum(m.owned > 0 for m in self.members)

    @property
    def flow(self) -> Flow:
        """All partitions together."""
        return Flow(
            sum(m.flow.lag for m in self.members),
            sum(m.flow.arrived_per_s for m in self.members),
            sum(m.flow.consumed_per_s for m in self.members),
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """What a decision remembers of those before it.

    Parameters
    ----------
    strength_per_s
        Offsets per second of one replica that always has work; 0 where none was seen so far.
    changed_s
        When the number was last changed.
    calm_since_s
        Since when there has been no backlog; None while there is one.
    """

    strength_per_s: float = 0.0
    changed_s: float = -math.inf
    calm_since_s: float | None = None


def figures(backlog: Backlog) -> dict[str, float]:
    """Return what a replica reports: numbers by name, as Serve wants them."""
    return {
        "lag": float(backlog.flow.lag),
        "arrived_per_s": backlog.flow.arrived_per_s,
        "consumed_per_s": backlog.flow.consumed_per_s,
        "partitions": float(backlog.partitions),
        "owned": float(backlog.owned),
        "measured": float(backlog.measured),
        "paused": float(backlog.paused),
    }


def backlog_of(found: Mapping[str, float]) -> Backlog:
    """Return a replica's report again as a value."""
    flow = Flow(int(found["lag"]), found["arrived_per_s"], found["consumed_per_s"])
    partitions, owned, measured = (int(found[n]) for n in ("partitions", "owned", "measured"))
    return Backlog(flow, partitions, owned, measured, paused=bool(found["paused"]))


def decide(
    load: Load, wanted: int, settings: AutoscalingSettings, now_s: float, memory: Memory
) -> tuple[int, Memory]:
    """Return how many replicas there should be.

    Nothing is changed while the load is not fully known: in a rebalance, in an outage that no
    further replica would end, or while a replica starts.

    Parameters
    ----------
    wanted
        Replicas that were asked for last.
    now_s
        Seconds, of a clock that does not go back.
    """
    bounded = bounds(wanted, load.partitions, settings)
    if bounded != wanted:
        return bounded, replace(memory, changed_s=now_s, calm_since_s=None)
    if load.replicas != wanted or not load.is_complete:
        return wanted, replace(memory, calm_since_s=None)
    if load.flow.is_settled:
        since = now_s if memory.calm_since_s is None else memory.calm_since_s
        memory = replace(memory, calm_since_s=since)
        number = _when_calm(load, wanted, settings, now_s, memory)
    else:
        memory = replace(memory, calm_since_s=None, strength_per_s=_strength(load, memory))
        number = _when_behind(load, wanted, settings, now_s, memory)
    number = bounds(number, load.partitions, settings)
    if number != wanted:
        memory = replace(memory, changed_s=now_s, calm_since_s=None)
    return number, memory


def bounds(number: int, partitions: int, settings: AutoscalingSettings) -> int:
    """Return the allowed number of replicas that is nearest.

    Examples
    --------
    >>> bounds(9, 4, AutoscalingSettings(max_replicas=6))
    4
    """
    most = min(settings.max_replicas, partitions or settings.max_replicas)
    return max(1, min(max(number, settings.min_replicas), most))


def _strength(load: Load, memory: Memory) -> float:
    """Return what one replica does that always has work."""
    seen = load.flow.consumed_per_s / max(1, load.workers)
    if memory.strength_per_s == 0.0 or seen == 0.0:
        return seen or memory.strength_per_s
    return memory.strength_per_s + NEWEST_SHARE * (seen - memory.strength_per_s)


def _when_behind(
    load: Load, wanted: int, settings: AutoscalingSettings, now_s: float, memory: Memory
) -> int:
    flow = load.flow
    is_soon_done = flow.drain_s <= settings.target_drain_s
    is_stuck = flow.consumed_per_s == 0.0 or memory.strength_per_s == 0.0
    if is_soon_done or is_stuck or now_s - memory.changed_s < settings.up_cooldown_s:
        return wanted
    needed_per_s = flow.arrived_per_s + flow.lag / settings.target_drain_s
    number = math.ceil(needed_per_s / memory.strength_per_s)
    # What one replica adds where there are many is a guess: the number doubles at most.
    return min(max(number, wanted + 1), 2 * wanted)


def _when_calm(
    load: Load, wanted: int, settings: AutoscalingSettings, now_s: float, memory: Memory
) -> int:
    assert memory.calm_since_s is not None  # noqa: S101 - set by the caller
    calm_s = now_s - max(memory.calm_since_s, memory.changed_s)
    if calm_s < settings.down_cooldown_s:
        return wanted
    left_per_s = HEADROOM * memory.strength_per_s * (wanted - 1)
    # Where no replica was ever seen at its limit, one less is tried.
    fits = memory.strength_per_s == 0.0 or load.flow.arrived_per_s <= left_per_s
    return wanted - 1 if fits else wanted


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
