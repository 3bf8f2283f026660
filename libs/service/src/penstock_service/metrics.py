"""What the metrics of all services share: buckets, and one exposition for several processes.

Metrics themselves are declared where they are counted, in each service's own ``metrics.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

LATENCY_BUCKETS: Final = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds of every latency histogram, seconds."""
MAXIMUM: Final = "livemax"
"""A gauge declared with this ``multiprocess_mode`` shows the largest process; others the sum."""

Sample = tuple[str, tuple[tuple[str, str], ...], float]
"""Name, labels and value."""


@dataclass(slots=True)
class Family:
    """One metric of one process or of several, as plain values that can be sent.

    Parameters
    ----------
    mode
        Of a gauge: how the values of several processes become one.
    """

    name: str
    help: str
    type: str
    mode: str
    samples: list[Sample] = field(default_factory=list)


def families_of(registry: CollectorRegistry) -> list[Family]:
    """Return what a process's metrics are now."""
    found = []
    # Metrics that are collected have lost their mode; the registry has no public way to it.
    for collector in list(registry._collector_to_names):  # noqa: SLF001
        mode = getattr(collector, "_multiprocess_mode", "")
        for metric in collector.collect():
            samples: list[Sample] = [
                (s.name, tuple(s.labels.items()), s.value)
                for s in metric.samples
                if not s.name.endswith("_created")
            ]
            found.append(Family(metric.name, metric.documentation, metric.type, mode, samples))
    return found


def merged(processes: Iterable[tuple[list[Family], bool]]) -> list[Family]:
    """Return the metrics of several processes as one.

    Counters and histograms of ended processes still count, so that nothing goes down when a replica
    is replaced; their gauges are dropped.

    Parameters
    ----------
    processes
        The metrics of each, and whether it lives.
    """
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    found: dict[str, Family] = {}
    for families, is_alive in processes:
        for family in families:
            if family.type == "gauge" and not is_alive:
                continue
            found.setdefault(family.name, family)
            sums = values.setdefault(family.name, {})
            for name, labels, value in family.samples:
                before = sums.get((name, labels))
                if before is None:
                    sums[name, labels] = value
                elif family.mode == MAXIMUM:
                    sums[name, labels] = max(before, value)
                else:
                    sums[name, labels] = before + value
    return [
        Family(f.name, f.help, f.type, f.mode, [(*key, v) for key, v in values[f.name].items()])
        for f in found.values()
    ]


def exposition(families: Iterable[Family]) -> bytes:
    """Return metrics as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(_Collected(list(families)))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.help, family.type)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric
