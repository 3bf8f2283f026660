"""Lag counts from the last stable offset; rates are right with control records and bursts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_streaming.lag import WINDOW_S, Flow, FlowMeter, LagMeter
from penstock_streaming.metrics import LoopMetrics
from prometheus_client import CollectorRegistry

Sample = tuple[float, int, int]


def flow_of(samples: Iterator[Sample] | list[Sample]) -> Flow:
    meter = FlowMeter()
    for sample in samples:
        meter.measure(*sample)
    found = meter.flow()
    assert found is not None
    return found


def steady(arrived: float, consumed: float, lag: int, seconds: int = 30) -> list[Sample]:
    """Measure once a second what fills and empties evenly."""
    return [(t, int(lag + arrived * t), int(consumed * t)) for t in range(seconds)]


def test_drain_time_of_a_flow_is_lag_over_the_net_rate() -> None:
    flow = flow_of(steady(arrived=100.0, consumed=400.0, lag=20_000))
    assert flow.lag == 20_000 - 29 * 300
    assert flow.drain_s == pytest.approx(flow.lag / 300.0)


def test_drain_time_is_infinite_while_the_lag_grows_or_stays() -> None:
    assert flow_of(steady(arrived=500.0, consumed=400.0, lag=20_000)).drain_s == math.inf
    assert flow_of(steady(arrived=400.0, consumed=400.0, lag=20_000)).drain_s == math.inf
    assert flow_of(steady(arrived=0.0, consumed=0.0, lag=1)).drain_s == math.inf


def test_what_open_transactions_hold_is_no_backlog() -> None:
    assert flow_of(steady(arrived=400.0, consumed=400.0, lag=200)).drain_s == 0.0
    assert flow_of(steady(arrived=0.0, consumed=0.0, lag=0)).drain_s == 0.0


@given(
    records=st.integers(100, 5_000),
    per_transaction=st.integers(1, 50),
    surplus=st.floats(1.2, 5.0),
    lag_s=st.integers(20, 200),
)
def test_control_records_leave_the_drain_time_as_it_is(
    records: int, per_transaction: int, surplus: float, lag_s: int
) -> None:
    """Each transaction adds a record that no consumer sees: to arrival, lag and consumption."""
    stretch = 1.0 + 1.0 / per_transaction
    plain = flow_of(steady(records, records * surplus, records * lag_s, 16))
    marked = flow_of(
        steady(records * stretch, records * surplus * stretch, int(records * lag_s * stretch), 16)
    )
    assert marked.drain_s == pytest.approx(plain.drain_s, rel=0.02)


@given(share_left=st.floats(0.05, 1.0), records=st.integers(100, 2_000))
def test_an_evenly_compacted_log_has_the_drain_time_of_its_offsets(
    share_left: float, records: int
) -> None:
    """A consumer that does ``records`` a second runs through as many offsets as these lie in."""
    consumed = records * 2 / share_left
    flow = flow_of(steady(records, consumed, int(consumed * 40), 16))
    assert flow.drain_s == pytest.approx(flow.lag / (consumed - records), rel=0.02)


@pytest.mark.parametrize("every_s", [1, 3, 5])
def test_commits_in_bursts_do_not_make_the_rate_jump(every_s: int) -> None:
    meter = FlowMeter()
    seen: list[float] = []
    for t in range(120):
        meter.measure(float(t), 100_000 + 100 * t, 400 * (t // every_s) * every_s)
        flow = meter.flow()
        if flow is not None and t > 2 * WINDOW_S:
            seen.append(flow.consumed_per_s)
    assert min(seen) > 400 * (1 - every_s / WINDOW_S) - 1
    assert max(seen) < 400 * (1 + every_s / WINDOW_S) + 1


def test_missing_commits_make_the_drain_time_infinite_within_the_window() -> None:
    samples = steady(arrived=100.0, consumed=400.0, lag=50_000)
    last_s, end, done = samples[-1]
    silent = [(last_s + t, end + 100 * t, done) for t in range(1, int(WINDOW_S) + 2)]
    assert flow_of(samples + silent).drain_s == math.inf


def test_offsets_that_go_back_start_the_measurement_anew() -> None:
    meter = FlowMeter()
    for sample in steady(arrived=100.0, consumed=100.0, lag=1_000):
        meter.measure(*sample)
    meter.measure(31.0, 10, 0)
    assert meter.flow() is None
    meter.measure(32.0, 20, 5)
    assert meter.flow() == Flow(15, 10.0, 5.0)


def test_measurements_too_close_together_are_no_rate() -> None:
    meter = FlowMeter()
    meter.measure(0.0, 100, 0)
    meter.measure(0.1, 100, 50)
    assert meter.flow() is None
    meter.measure(1.0, 100, 50)
    assert meter.flow() == Flow(50, 0.0, 50.0)


@given(
    st.lists(
        st.tuples(st.floats(0.01, 20.0), st.integers(0, 5_000), st.integers(0, 5_000)),
        min_size=2,
        max_size=80,
    )
)
def test_rates_are_never_negative_and_memory_is_bounded(
    steps: list[tuple[float, int, int]],
) -> None:
    meter, now, end, done = FlowMeter(), 0.0, 0, 0
    for elapsed, arrived, consumed in steps:
        now, end = now + elapsed, end + arrived
        done = min(end, done + consumed)
        meter.measure(now, end, done)
        flow = meter.flow()
        if flow is not None:
            assert flow.arrived_per_s >= 0.0
            assert flow.consumed_per_s >= 0.0
            assert flow.drain_s >= 0.0
            assert flow.lag == end - done
    assert len(meter._samples) <= 2 * WINDOW_S / 0.5 + 2


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
