"""Rounds of a fault test beside each other: each of them waits most of its time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from harness.fault_world import FaultWorld

Round = TypeVar("Round")


def in_lanes(
    worlds: Sequence[FaultWorld],
    rounds: Sequence[Round],
    play: Callable[[FaultWorld, Round], None],
) -> None:
    """Play all rounds, one lane per world; the first failure is raised when every lane has ended.

    A lane ends at its first failure.
    """

    def lane(number: int) -> None:
        for turn in rounds[number :: len(worlds)]:
            play(worlds[number], turn)

    with ThreadPoolExecutor(len(worlds)) as pool:
        for done in [pool.submit(lane, number) for number in range(len(worlds))]:
            done.result()
