"""Area under the ROC curve, weighted, and what chance alone does to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]
RESAMPLES: Final = 1_000
_TAIL: Final = 0.025


class Ranking:
    """Scores sorted once, so that many weightings of the same rows cost little each.

    Parameters
    ----------
    labels
        0 or 1, shape (n,).
    scores
        Higher means more likely 1, shape (n,); equal ones count half.
    """

    def __init__(self, labels: Floats, scores: Floats) -> None:
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        self._positive = labels[self._order] > 0.5
        self._groups = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])

    def auc(self, weights: Floats | None = None) -> float:
        """Return the area with each row counted by its weight; NaN unless both classes are there.

        Parameters
        ----------
        weights
            Shape (n,), not negative; one each if None.
        """
        if not len(self._order):
            return float("nan")
        counts = np.ones(len(self._order)) if weights is None else weights[self._order]
        positives = np.add.reduceat(np.where(self._positive, counts, 0.0), self._groups)
        negatives = np.add.reduceat(np.where(self._positive, 0.0, counts), self._groups)
        below = np.cumsum(negatives) - negatives / 2
        pairs = positives.sum() * negatives.sum()
        return float((positives * below).sum() / pairs) if pairs else float("nan")


def auc(labels: Floats, scores: Floats) -> float:
    """Return the area under the ROC curve; NaN unless both classes are there.

    Examples
    --------
    >>> auc(np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.1, 0.9, 0.9, 0.8]))
    0.625
    """
    return Ranking(labels, scores).auc()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two scorers on the same rows.

    Parameters
    ----------
    first, second
        Area of each.
    first_interval, second_interval, gap_interval
        95 % bootstrap intervals; the gap is second less first.
    """

    first: float
    second: float
    first_interval: Interval
    second_interval: Interval
    gap_interval: Interval


def compare(labels: Floats, first: Floats, second: Floats, seed: int = 0) -> Comparison:
    """Compare two scorers on the same rows; rows are drawn for both together."""
    rankings = (Ranking(labels, first), Ranking(labels, second))
    rng = np.random.default_rng(seed)
    n = len(labels)
    drawn = np.empty((RESAMPLES, 2))
    for i in range(RESAMPLES if n else 0):
        weights = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        drawn[i] = [ranking.auc(weights) for ranking in rankings]
    if not n:
        drawn[:] = np.nan
    return Comparison(
        rankings[0].auc(),
        rankings[1].auc(),
        _interval(drawn[:, 0]),
        _interval(drawn[:, 1]),
        _interval(drawn[:, 1] - drawn[:, 0]),
    )


def _interval(drawn: Floats) -> Interval:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return (float("nan"), float("nan"))
    low, high = np.quantile(known, [_TAIL, 1.0 - _TAIL])
    return (float(low), float(high))
