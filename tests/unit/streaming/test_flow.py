"""Rates and drain time: right with control records, gaps and bursts, smooth enough to scale on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_streaming.flow import WINDOW_S, Flow, FlowMeter

Sample = tuple[float, int, int]


def flow_of(samples: Iterator[Sample] | list[Sample]) -> Flow:
    meter = FlowMeter()
    for sample in samples:
        meter.add(*sample)
    found = meter.flow()
    assert found is not None
    return found


def steady(arrived: float, consumed: float, lag: int, seconds: int = 30) -> list[Sample]:
    """Measure once a second what fills and empties evenly."""
    return [(t, int(lag + arrived * t), int(consumed * t)) for t in range(seconds)]


def test_drain_time_is_lag_over_the_net_rate() -> None:
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
        meter.add(float(t), 100_000 + 100 * t, 400 * (t // every_s) * every_s)
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
        meter.add(*sample)
    meter.add(31.0, 10, 0)
    assert meter.flow() is None
    meter.add(32.0, 20, 5)
    assert meter.flow() == Flow(15, 10.0, 5.0)


def test_measurements_too_close_together_are_no_rate() -> None:
    meter = FlowMeter()
    meter.add(0.0, 100, 0)
    meter.add(0.1, 100, 50)
    assert meter.flow() is None
    meter.add(1.0, 100, 50)
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
        meter.add(now, end, done)
        flow = meter.flow()
        if flow is not None:
            assert flow.arrived_per_s >= 0.0
            assert flow.consumed_per_s >= 0.0
            assert flow.drain_s >= 0.0
            assert flow.lag == end - done
    assert len(meter._samples) <= 2 * WINDOW_S / 0.5 + 2
