"""Throughput is taken from growth to growth, and never from what came in the warm-up."""

from __future__ import annotations

import random

import measure
import pytest
from measure import Limits, Sample


def watch_of(*seen: tuple[float, int]) -> list[Sample]:
    return [Sample(at, {0: offset}, cpu_s=at / 2) for at, offset in seen]


def test_outputs_that_come_in_steps_are_measured_from_step_to_step() -> None:
    # One step of 1,000 a second, looked at four times a second.
    looks = [(n / 4, 1_000 * (n // 4 + 1)) for n in range(32)]
    first, end = measure.span(watch_of(*looks), warm_s=2.0)
    assert (first.at_s, end.at_s) == (2.0, 7.0)
    assert (end.stable[0] - first.stable[0]) / (end.at_s - first.at_s) == 1_000


@pytest.mark.parametrize("seed", range(5))
def test_silence_at_the_end_does_not_lower_the_rate(seed: int) -> None:
    rng = random.Random(seed)
    looks = [(n / 10, 500 * n + 1) for n in range(60)]
    idle = [(6.0 + n / 10, looks[-1][1]) for n in range(rng.randrange(1, 50))]
    first, end = measure.span(watch_of(*looks, *idle), warm_s=1.0)
    assert end.at_s == pytest.approx(5.9)
    assert (end.stable[0] - first.stable[0]) / (end.at_s - first.at_s) == pytest.approx(5_000)


def test_a_run_that_is_over_within_the_warm_up_is_measured_whole() -> None:
    first, end = measure.span(watch_of((0.1, 10), (0.2, 900), (0.3, 1_000)), warm_s=2.0)
    assert (first.at_s, end.at_s) == (0.1, 0.3)


def test_one_step_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="more records"):
        measure.span(watch_of((0.1, 1_000), (0.2, 1_000)), warm_s=0.0)


@pytest.mark.parametrize(
    ("seen", "is_over"),
    [
        ([(0.0, 10), (1.0, 500)], False),  # still growing
        ([(0.0, 10), (1.0, 1_000), (1.5, 1_000)], False),  # a marker may have stood for a record
        ([(0.0, 10), (1.0, 1_000), (3.0, 1_000)], True),  # all there, and silent
        ([(0.0, 10), (1.0, 500), (3.0, 500)], False),  # a slow committer
        ([(0.0, 10), (1.0, 500), (18.0, 500)], True),  # stalled
        ([(0.0, 10), (20.5, 900)], True),  # the window is over
    ],
)
def test_a_watch_ends_when_nothing_can_come_any_more(
    seen: list[tuple[float, int]], is_over: bool
) -> None:
    assert measure._is_over(watch_of(*seen), 1_000, Limits()) is is_over
