from __future__ import annotations

from penstock_service.metrics import (
    LATENCY_BUCKETS,
    Family,
    exposition,
    families_of,
    merged,
)
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


def process() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("records", "d", ["outcome"], registry=registry).labels("predicted").inc(3)
    Gauge("lag", "d", multiprocess_mode="livesum", registry=registry).set(5)
    Gauge("weight", "d", multiprocess_mode="livemax", registry=registry).set(7)
    latency = Histogram("latency_seconds", "d", buckets=LATENCY_BUCKETS, registry=registry)
    latency.observe(0.002)
    return registry


def lines(*processes: tuple[list[Family], bool]) -> list[str]:
    return exposition(merged(processes)).decode().splitlines()


def test_replicas_are_one_exposition_and_dead_ones_keep_their_counts() -> None:
    first, second = families_of(process()), families_of(process())
    shown = lines((first, True), (second, True))
    assert 'records_total{outcome="predicted"} 6.0' in shown
    assert "lag 10.0" in shown
    assert "weight 7.0" in shown
    assert 'latency_seconds_bucket{le="0.002"} 2.0' in shown
    assert 'latency_seconds_bucket{le="+Inf"} 2.0' in shown
    assert "latency_seconds_count 2.0" in shown

    shown = lines((first, False), (second, True))
    assert 'records_total{outcome="predicted"} 6.0' in shown
    assert "lag 5.0" in shown


def test_sum_of_ended_processes_is_as_good_as_they() -> None:
    first, second = families_of(process()), families_of(process())
    ended = merged([(first, False), (second, False)])
    assert 'records_total{outcome="predicted"} 9.0' in lines((ended, False), (first, True))
    assert lines() == []


def test_exposition_of_one_process_is_its_own_but_for_times_of_creation() -> None:
    registry = process()
    own = generate_latest(registry).decode().splitlines()
    assert lines((families_of(registry), True)) == [x for x in own if "_created" not in x]


def test_latency_buckets_rise_from_half_a_millisecond_to_a_minute() -> None:
    assert list(LATENCY_BUCKETS) == sorted(set(LATENCY_BUCKETS))
    assert (LATENCY_BUCKETS[0], LATENCY_BUCKETS[-1]) == (0.0005, 60.0)
