"""When transactions happen and whose they are: daily rhythm, bursts, and recent activity."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

DAY_S: Final = 86_400.0
_QUIET_S: Final = 3.5 * 3600
"""Quietest time of the day, seconds after midnight UTC."""
_RHYTHM: Final = 0.75
"""Depth of the daily rhythm: the rate swings between 1 - depth and 1 + depth."""
_BURST_SHARE: Final = 0.15
_BURST_REACH_S: Final = 900.0

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def arrival_times(rng: np.random.Generator, n: int, start_s: float, rate: float) -> Floats:
    """Draw ``n`` ascending times of a Poisson process with a daily rhythm.

    Parameters
    ----------
    start_s
        Time before the first arrival, seconds since the epoch.
    rate
        Mean arrivals per second.

    Returns
    -------
    Seconds since the epoch, shape (n,).

    Notes
    -----
    Exact by time change: unit-rate arrivals through the inverse of the integrated rate, which is
    tabulated each five minutes.
    """
    load = np.cumsum(rng.exponential(1.0 / rate, n))
    turn = DAY_S / (2 * np.pi)
    # The integrated rhythm strays from the identity by at most 2 * depth * turn.
    span = load[-1] + 4 * turn
    grid = start_s + np.arange(0.0, span + 300.0, 300.0)
    wave = _RHYTHM * turn * np.sin((grid - _QUIET_S) / turn)
    integrated = (grid - wave) - (grid[0] - wave[0])
    times: Floats = np.interp(load, integrated, grid)
    return times


def start_before(end_s: float, n: int, rate: float) -> float:
    """Return a start from which ``n`` arrivals end shortly before ``end_s``, not after it.

    Three standard deviations of their number are left as a margin.
    """
    turn = DAY_S / (2 * np.pi)

    def integrated(t: float) -> float:
        return float(t - _RHYTHM * turn * np.sin((t - _QUIET_S) / turn))

    target = integrated(end_s) - (n + 3 * math.sqrt(n)) / rate
    low, high = target - turn, target + turn
    while high - low > 1.0:
        middle = (low + high) / 2
        low, high = (middle, high) if integrated(middle) < target else (low, middle)
    return low


def draw_accounts(rng: np.random.Generator, times_s: Floats, activity: Floats) -> Ints:
    """Draw the account of each arrival: by activity, or that of a recent arrival (a burst).

    Returns
    -------
    Indices into ``activity``, shape (n,).
    """
    n = len(times_s)
    accounts = rng.choice(len(activity), n, p=activity)
    reach = times_s - rng.uniform(0.0, _BURST_REACH_S, n)
    parent = np.where(rng.random(n) < _BURST_SHARE, np.searchsorted(times_s, reach), np.arange(n))
    parent = np.minimum(parent, np.arange(n))
    while True:  # follow each burst to its first arrival; halves the chains each time
        root = parent[parent]
        if np.array_equal(root, parent):
            return accounts[root]
        parent = root


class RecentActivity:
    """Decayed count of each account's earlier transactions.

    Parameters
    ----------
    accounts
        Number of accounts.
    half_life_s
        Time after which a transaction counts half, seconds.
    """

    def __init__(self, accounts: int, half_life_s: float) -> None:
        self._count = np.zeros(accounts)
        self._last_s = np.full(accounts, -np.inf)
        self._half_life_s = half_life_s

    def observe(self, accounts: Ints, times_s: Floats) -> Floats:
        """Return the count just before each transaction and take them in.

        Parameters
        ----------
        accounts
            Account per transaction, shape (n,).
        times_s
            Ascending times, shape (n,).

        Returns
        -------
        Decayed counts, shape (n,).
        """
        order = np.argsort(accounts, kind="stable")
        grouped = accounts[order]
        first = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
        nth = np.arange(len(order)) - np.repeat(first, np.diff(np.r_[first, len(order)]))
        before = np.empty(len(order))
        by_turn = np.argsort(nth, kind="stable")
        for rows in np.split(by_turn, np.cumsum(np.bincount(nth))[:-1]):
            # One row per account in each turn, so fancy assignment has no collisions.
            rows = order[rows]
            who, when = accounts[rows], times_s[rows]
            decay = np.exp2((self._last_s[who] - when) / self._half_life_s)
            before[rows] = self._count[who] * decay
            self._count[who] = before[rows] + 1.0
            self._last_s[who] = when
        return before
