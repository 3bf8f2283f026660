"""Offset arithmetic."""

from __future__ import annotations

import numpy as np
from penstock_streaming.handler import MessageBatch
from penstock_streaming.progress import Progress


def batch(*rows: tuple[int, int]) -> MessageBatch:
    n = len(rows)
    return MessageBatch(
        topic="t",
        messages=[],
        values=[None] * n,
        keys=[None] * n,
        partitions=np.array([p for p, _ in rows], np.int32),
        offsets=np.array([o for _, o in rows], np.int64),
    )


def test_an_end_is_the_last_offset_plus_one_of_each_partition() -> None:
    progress = Progress()
    progress.add(batch((0, 4), (1, 10), (0, 5), (0, 9)))
    progress.add(batch((1, 11)))
    assert progress.ends({}) == {0: 10, 1: 12}


def test_positions_step_over_control_records_and_never_back() -> None:
    progress = Progress()
    progress.add(batch((0, 4), (1, 9)))
    assert progress.ends({0: 7, 1: 3, 2: 50}) == {0: 7, 1: 10}


def test_only_committed_partitions_can_be_behind() -> None:
    progress = Progress()
    progress.add(batch((0, 4)))
    progress.commit(progress.ends({}))
    assert progress.behind({0: 6, 1: 9}) == {0: 6}
    assert progress.behind({0: 5}) == {}
    assert progress.open_ends == {}


def test_after_a_roll_back_no_position_is_trusted() -> None:
    progress = Progress()
    progress.add(batch((0, 4)))
    progress.commit({0: 5})
    progress.add(batch((0, 5)))
    progress.roll_back()
    assert progress.ends({0: 9}) == {}
    assert progress.behind({0: 9}) == {}


def test_partitions_given_up_are_forgotten() -> None:
    progress = Progress()
    progress.add(batch((0, 4), (1, 4)))
    progress.forget([1])
    assert progress.ends({}) == {0: 5}
