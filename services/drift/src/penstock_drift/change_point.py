"""When the error of a model changed: the most likely place of one step in its mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from penstock_monitoring.observations import Floats, Ints

MIN_ROWS: Final = 30
"""Fewest errors on either side of a change."""


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """A step in the mean.

    Parameters
    ----------
    time
        Event time from which on the mean is another one, milliseconds.
    before, after
        The two means.
    rows
        Errors from ``time`` on.
    """

    time: int
    before: float
    after: float
    rows: int


def change_point(errors: Floats, times: Ints) -> ChangePoint | None:
    """Return where the mean of the errors changes most, in the order of event time.

    Labels come in another order than events: by event time the change is a step, by the time of
    the labels a slope.

    Parameters
    ----------
    errors, times
        In any order, shape (n,).

    Returns
    -------
    None with fewer than `MIN_ROWS` errors on either side.

    References
    ----------
    Page, E. S.: Continuous Inspection Schemes, 1954; the statistic is the likelihood ratio of one
    step in the mean at an unknown place, Hawkins 1977, eq. 2.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> errors = np.concatenate([rng.random(500), 0.3 + rng.random(300)])
    >>> found = change_point(errors, np.arange(800))
    >>> abs(found.time - 500) < 20, found.after > found.before
    (True, True)
    """
    n = len(errors)
    if n < 2 * MIN_ROWS:
        return None
    order = np.argsort(times, kind="stable")
    ordered, moments = errors[order], times[order]
    sums = np.cumsum(ordered)
    first = np.arange(1, n)
    before = sums[:-1] / first
    after = (sums[-1] - sums[:-1]) / (n - first)
    strength = np.sqrt(first * (n - first) / n) * np.abs(after - before)
    at = int(np.argmax(strength[MIN_ROWS - 1 : n - MIN_ROWS])) + MIN_ROWS
    time = int(moments[at])
    # Events of the same millisecond belong together.
    at = int(np.searchsorted(moments, time, side="left"))
    if at == 0:
        return None
    return ChangePoint(time, float(sums[at - 1] / at), float(np.mean(ordered[at:])), n - at)
