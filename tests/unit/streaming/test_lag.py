"""Lag counts from the last stable offset; drain time from rates."""

from __future__ import annotations

import json
import math

from penstock_streaming.lag import LagMeter
from penstock_streaming.metrics import LoopMetrics
from prometheus_client import CollectorRegistry


def statistics(**ends: int) -> str:
    partitions = {
        name[1:]: {"ls_offset": end, "hi_offset": end + 100, "next_offset": 0}
        for name, end in ends.items()
    }
    partitions["-1"] = {"ls_offset": 5}
    return json.dumps({"topics": {"t": {"partitions": partitions}, "u": {"partitions": {}}}})


def test_lag_ignores_records_of_open_transactions() -> None:
    meter = LagMeter("t")
    meter.on_statistics(statistics(p0=10))
    meter.on_committed({0: 4})
    assert meter.lag([0]) == {0: 6}


def test_lag_without_a_commit_counts_from_the_fetch_position() -> None:
    meter = LagMeter("t")
    meter.on_statistics(statistics(p0=10))
    assert meter.lag([0, 1]) == {0: 10}


def test_a_partition_given_up_loses_its_commit() -> None:
    meter = LagMeter("t")
    meter.on_statistics(statistics(p0=10))
    meter.on_committed({0: 10})
    meter.on_gone([0])
    assert meter.lag([0]) == {0: 10}


def test_drain_time_is_lag_over_the_net_rate() -> None:
    now = [0.0]
    meter = LagMeter("t", clock=lambda: now[0])
    meter.on_committed({0: 0})
    meter.on_statistics(statistics(p0=100))
    now[0] = 2.0
    meter.on_committed({0: 40})
    meter.on_statistics(statistics(p0=120))
    assert meter.drain_s([0]) == {0: 80 / 10}
    now[0] = 4.0
    meter.on_statistics(statistics(p0=200))
    assert meter.drain_s([0]) == {0: math.inf}
    now[0] = 6.0
    meter.on_committed({0: 200})
    meter.on_statistics(statistics(p0=200))
    assert meter.drain_s([0]) == {0: 0.0}


def test_gauges_of_a_partition_given_up_go_to_zero() -> None:
    registry = CollectorRegistry()
    metrics = LoopMetrics(registry)
    meter = LagMeter("t")
    meter.on_statistics(statistics(p0=10, p1=7))
    meter.export([0, 1], metrics)
    meter.export([0], metrics)
    lag = {
        p: registry.get_sample_value("penstock_lag_records", {"topic": "t", "partition": p})
        for p in "01"
    }
    assert lag == {"0": 10, "1": 0}
