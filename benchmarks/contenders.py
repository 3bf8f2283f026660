"""Who takes part: one entry per row of the tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal

from processes import Pids

Group = Literal["systems", "costs"]
Input = Literal["vectors", "events"]

BARE: Final = "bare loop"
OURS: Final = "penstock, exactly once"
ALONE: Final = "router alone"
"""The control of the costs: exactly once, 100 ms, everything on, no Serve around it."""
SERIES: Final = "penstock, ingest + inference"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run works.

    Parameters
    ----------
    source, output
        Topics: what is read, and where the predictions go.
    tag
        A name that no other run has.
    """

    source: str
    output: str
    tag: str


def _untold() -> float:
    return math.nan


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that runs.

    Parameters
    ----------
    pids
        Its processes, the model server's too where it uses one.
    batch_fill
        Mean rows of a batch over the largest allowed; NaN where it does not tell.
    """

    pids: Pids
    batch_fill: Callable[[], float] = _untold


@dataclass(frozen=True, slots=True)
class Contender:
    """One row.

    Parameters
    ----------
    about
        What it is, for the reader of the table.
    delivery
        What it promises.
    output
        ``4 fields`` or ``Prediction``.
    started
        Runs it for the time of the block.
    reads
        Feature vectors, or events of which the features are still to be made.
    is_ours
        Whether a run that fails fails the benchmark.
    is_whole
        Whether it is read to the end, and every record must have exactly one output.
    """

    name: str
    group: Group
    about: str
    delivery: str
    output: str
    started: Callable[[Place], AbstractContextManager[Running]]
    reads: Input = "vectors"
    is_ours: bool = False
    is_whole: bool = False


def chosen(contenders: Sequence[Contender], only: Sequence[str]) -> list[Contender]:
    """Return the contenders whose name or group contains one of ``only``; all if it is empty.

    Raises
    ------
    ValueError
        If a text names none.
    """
    for text in only:
        if not any(text in (c.group, c.name) or text in c.name for c in contenders):
            known = ", ".join(repr(c.name) for c in contenders)
            raise ValueError(f"{text!r} names no contender; known: systems, costs, {known}")
    if not only:
        return list(contenders)
    return [c for c in contenders if any(text == c.group or text in c.name for text in only)]
