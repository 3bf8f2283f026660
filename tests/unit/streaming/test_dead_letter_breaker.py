"""The dead-letter breaker counts what is in the log, per partition, and nothing twice."""

from __future__ import annotations

import numpy as np
from penstock_streaming.dead_letter_breaker import (
    WINDOW_ROWS,
    BreakerLimits,
    DeadLetterBreaker,
    Trip,
)

LIMITS = BreakerLimits(share=0.2, in_row=50)


def rows(count: int, partition: int = 0) -> np.ndarray:
    """Return the partitions of a batch of one partition."""
    return np.full(count, partition, np.int32)


def test_as_many_in_a_row_as_allowed_pass_and_one_more_trips() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    assert breaker.add(rows(50), range(50)) is None
    assert breaker.add(rows(1), [0]) == Trip(0, 0, "in_row", 51)


def test_a_good_record_ends_a_row() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    assert breaker.add(rows(50), range(50)) is None
    assert breaker.add(rows(51), range(1, 51)) is None


def test_a_fifth_of_the_last_records_passes_and_one_more_trips() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    assert breaker.add(rows(5 * WINDOW_ROWS), range(0, 5 * WINDOW_ROWS, 5)) is None
    trip = breaker.add(rows(2), [1])  # one early: the oldest of the window is still in it
    assert trip is None
    assert breaker.add(rows(1), [0]) == Trip(0, 0, "share", 201)


def test_a_burst_inside_a_large_batch_is_seen() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    burst = [row for row in range(1_000, 1_500) if row % 2]
    trip = breaker.add(rows(10_000), burst)
    assert trip is not None
    assert (trip.kind, trip.row) == ("share", burst[200])


def test_few_records_are_no_share() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    assert breaker.add(rows(400), range(0, 400, 2)) is None


def test_partitions_are_counted_apart() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    both = np.tile(np.array([0, 1], np.int32), 60)
    dead = [row for row in range(120) if row % 2]  # all of partition 1
    trip = breaker.add(both, dead)
    assert trip == Trip(1, 101, "in_row", 51)
    assert set(breaker.tripped) == {1}


def test_of_two_partitions_the_first_that_trips_is_told() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    batch = np.concatenate([rows(60, 1), rows(60, 0)])
    trip = breaker.add(batch, range(120))
    assert trip is not None
    assert (trip.partition, trip.row) == (1, 50)


def test_what_was_rolled_back_does_not_count_and_what_was_committed_does() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    breaker.add(rows(30), range(30))
    breaker.commit()
    for _ in range(5):  # the same transaction, aborted again and again
        assert breaker.add(rows(20), range(20)) is None
        breaker.roll_back()
    assert breaker.add(rows(20), range(20)) is None
    breaker.commit()
    assert breaker.add(rows(1), [0]) == Trip(0, 0, "in_row", 51)


def test_a_partition_that_comes_back_begins_anew() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    assert breaker.add(rows(60), range(60)) is not None
    breaker.forget([0])
    assert not breaker.tripped
    assert breaker.add(rows(50), range(50)) is None


def test_a_limit_of_zero_is_off() -> None:
    breaker = DeadLetterBreaker(BreakerLimits(share=0.0, in_row=0))
    assert breaker.add(rows(5_000), range(5_000)) is None


def test_only_a_raised_limit_opens_what_it_closed() -> None:
    for limits, opens in [
        (BreakerLimits(0.2, 80), True),
        (BreakerLimits(0.2, 0), True),
        (BreakerLimits(0.9, 50), False),
        (BreakerLimits(0.2, 10), False),
    ]:
        breaker = DeadLetterBreaker(LIMITS)
        breaker.add(rows(60), range(60))
        breaker.roll_back()
        assert (breaker.tune(limits) == {0}) is opens, limits
        assert (not breaker.tripped) is opens


def test_a_raised_limit_is_the_one_judged_by() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    breaker.add(rows(60), range(60))
    breaker.roll_back()
    breaker.tune(BreakerLimits(0.2, 60))
    assert breaker.add(rows(60), range(60)) is None
    assert breaker.add(rows(1), [0]) is not None
