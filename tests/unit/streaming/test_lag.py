"""Lag counts from the last stable offset, and from what is committed wherever that is known."""

from __future__ import annotations

import json
import math

import pytest
from penstock_streaming.lag import LagMeter
from penstock_streaming.metrics import LoopMetrics
from prometheus_client import CollectorRegistry

NOTHING = -1001
"""What the client says of an offset that it does not know."""


def facts(end: int, **more: int) -> dict[str, int]:
    found = {
        "ls_offset": end,
        "hi_offset": end + 100,
        "lo_offset": 0,
        "committed_offset": NOTHING,
        "app_offset": NOTHING,
        "next_offset": 0,
        "fetchq_cnt": 0,
    }
    return found | more


def statistics(**partitions: dict[str, int]) -> str:
    found = {name[1:]: told for name, told in partitions.items()}
    found["-1"] = {"ls_offset": 5}
    return json.dumps({"topics": {"t": {"partitions": found}, "u": {"partitions": {}}}})


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> LagMeter:
    return LagMeter("t", clock)


def test_lag_ignores_records_of_open_transactions(meter: LagMeter) -> None:
    meter.on_statistics(statistics(p0=facts(10)))
    meter.on_committed({0: 4})
    assert meter.lag([0]) == {0: 6}


def test_lag_before_our_first_commit_counts_from_the_groups(meter: LagMeter) -> None:
    meter.on_statistics(statistics(p0=facts(500, committed_offset=100, next_offset=400)))
    assert meter.lag([0]) == {0: 400}


def test_lag_without_any_commit_counts_from_the_start_of_the_log(meter: LagMeter) -> None:
    meter.on_statistics(statistics(p0=facts(500, lo_offset=20, next_offset=400)))
    assert meter.lag([0, 1]) == {0: 480}


def test_lag_of_a_partition_that_nothing_is_known_of_is_not_told(meter: LagMeter) -> None:
    unknown = facts(NOTHING, hi_offset=NOTHING, lo_offset=NOTHING, next_offset=NOTHING)
    meter.on_statistics(statistics(p0=unknown))
    assert meter.lag([0]) == {}
    assert meter.drain_s([0]) == {}


def test_a_partition_that_moves_loses_its_commit(meter: LagMeter) -> None:
    meter.on_statistics(statistics(p0=facts(10)))
    meter.on_committed({0: 10})
    meter.on_moved([0])
    assert meter.lag([0]) == {0: 10}


def test_a_partition_taken_over_is_measured_from_then_on(meter: LagMeter, clock: Clock) -> None:
    """What another member did meanwhile is no work of ours."""
    meter.on_statistics(statistics(p0=facts(1_000, committed_offset=10)))
    clock.now_s = 1.0
    meter.on_moved([0])
    meter.on_statistics(statistics(p0=facts(1_000, committed_offset=900)))
    assert meter.backlog([0]).measured == 0
    clock.now_s = 2.0
    meter.on_committed({0: 910})
    meter.on_statistics(statistics(p0=facts(1_000, committed_offset=900)))
    assert meter.backlog([0]).flow.consumed_per_s == 10.0


def test_control_records_at_the_end_are_no_lag(meter: LagMeter) -> None:
    """The client has read past them, though nothing can be committed for them yet."""
    meter.is_idle = True
    at_the_end = facts(103, committed_offset=100, app_offset=103, next_offset=103)
    meter.on_statistics(statistics(p0=at_the_end))
    assert meter.lag([0]) == {0: 3}, "once: a record might be on its way to the client's queue"
    meter.on_statistics(statistics(p0=at_the_end))
    assert meter.lag([0]) == {0: 0}


def test_a_tail_that_compaction_removed_is_no_lag(meter: LagMeter) -> None:
    meter.is_idle = True
    meter.on_committed({0: 100})
    for _ in range(2):
        meter.on_statistics(statistics(p0=facts(5_000, app_offset=100, next_offset=5_000)))
    assert meter.lag([0]) == {0: 0}
    meter.on_statistics(statistics(p0=facts(5_010, app_offset=100, next_offset=5_000)))
    assert meter.lag([0]) == {0: 10}


@pytest.mark.parametrize("case", ["prefetched", "in work", "just returned"])
def test_records_prefetched_or_in_work_are_lag(meter: LagMeter, case: str) -> None:
    meter.is_idle = case != "in work"
    meter.on_committed({0: 100})
    for returned in (101, 102, 103):
        more = {"fetchq_cnt": int(case == "prefetched")}
        more["app_offset"] = returned if case == "just returned" else 150
        meter.on_statistics(statistics(p0=facts(150, next_offset=150, **more)))
    assert meter.lag([0]) == {0: 50}


def test_drain_time_is_lag_over_the_net_rate(meter: LagMeter, clock: Clock) -> None:
    meter.on_committed({0: 0})
    meter.on_statistics(statistics(p0=facts(100)))
    clock.now_s = 2.0
    meter.on_committed({0: 40})
    meter.on_statistics(statistics(p0=facts(120)))
    assert meter.drain_s([0]) == {0: 80 / 10}
    clock.now_s = 4.0
    meter.on_statistics(statistics(p0=facts(200)))
    assert meter.drain_s([0]) == {0: math.inf}
    clock.now_s = 6.0
    meter.on_committed({0: 200})
    meter.on_statistics(statistics(p0=facts(200)))
    assert meter.drain_s([0]) == {0: 0.0}


def test_backlog_adds_up_what_a_member_owns(meter: LagMeter, clock: Clock) -> None:
    meter.on_committed({0: 0, 1: 0})
    for now_s in (0.0, 10.0):
        clock.now_s = now_s
        meter.on_committed({0: int(now_s) * 5, 1: int(now_s) * 7})
        end = 1_000 + int(now_s) * 10
        meter.on_statistics(statistics(p0=facts(end), p1=facts(end), p2=facts(end)))
    found = meter.backlog([0, 1])
    assert (found.partitions, found.owned, found.measured) == (3, 2, 2)
    assert found.flow.lag == 2_200 - 120
    assert (found.flow.arrived_per_s, found.flow.consumed_per_s) == (20.0, 12.0)


def test_gauges_of_a_partition_given_up_go_to_zero(meter: LagMeter) -> None:
    registry = CollectorRegistry()
    metrics = LoopMetrics(registry)
    meter.on_statistics(statistics(p0=facts(10), p1=facts(7)))
    meter.export([0, 1], metrics)
    meter.export([0], metrics)
    lag = {
        p: registry.get_sample_value("penstock_lag_records", {"topic": "t", "partition": p})
        for p in "01"
    }
    assert lag == {"0": 10, "1": 0}
