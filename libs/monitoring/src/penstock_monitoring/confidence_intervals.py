"""Two scorers on the same rows, and what chance alone does to their AUCs: a paired bootstrap.

A row is drawn together with both of its scores, so that what is hard for both does not widen the
interval of their difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from penstock_monitoring.quality import Floats, auc, weighted_auc

Interval = tuple[float, float]
RESAMPLES: Final = 1_000
_CHUNK_CELLS: Final = 4_000_000
"""Rows times resamples in memory at once."""
_TAIL: Final = 0.025
"""Share of the resamples on either side of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class PairedAuc:
    """AUC of two scorers on the same rows.

    Parameters
    ----------
    first_interval, second_interval, gap_interval
        95 % bootstrap intervals; the gap is second less first. NaN without rows of both classes.
    """

    rows: int
    positives: int
    first: float
    second: float
    first_interval: Interval
    second_interval: Interval
    gap_interval: Interval


def paired_bootstrap(
    labels: Floats,
    first: Floats,
    second: Floats,
    *,
    stratified: bool,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> PairedAuc:
    """Compare two scorers on the same rows; the same seed gives the same intervals.

    Parameters
    ----------
    labels
        0 or 1, shape (n,).
    first, second
        Scores, shape (n,).
    stratified
        Whether positives and negatives are drawn apart, as many as there are: no resample is
        without a positive. Else resamples of one class are left out.

    References
    ----------
    Efron, B., Tibshirani, R.: An Introduction to the Bootstrap, 1993, section 13.3.

    Examples
    --------
    >>> y = np.array([0.0, 0.0, 1.0, 1.0])
    >>> even, sure = np.full(4, 0.5), np.array([0.1, 0.2, 0.8, 0.9])
    >>> found = paired_bootstrap(y, even, sure, stratified=True)
    >>> found.first, found.second, found.gap_interval
    (0.5, 1.0, (0.5, 0.5))
    """
    n = len(labels)
    rng = np.random.default_rng(seed)
    is_positive = labels > 0.5
    strata = [np.flatnonzero(is_positive), np.flatnonzero(~is_positive)]
    if not stratified:
        strata = [np.arange(n)]
    at_once = max(1, _CHUNK_CELLS // max(1, n))
    drawn = np.empty((2, resamples))
    for start in range(0, resamples, at_once):
        weights = _draw_weights(rng, strata, min(at_once, resamples - start))
        for of_scorer, scores in zip(drawn, (first, second), strict=True):
            of_scorer[start : start + at_once] = weighted_auc(labels, scores, weights)
    return PairedAuc(
        n,
        int(is_positive.sum()),
        auc(labels, first),
        auc(labels, second),
        _interval(drawn[0]),
        _interval(drawn[1]),
        _interval(drawn[1] - drawn[0]),
    )


def _draw_weights(
    rng: np.random.Generator, strata: list[np.typing.NDArray[np.int64]], resamples: int
) -> Floats:
    """Return how often each row is drawn in each resample, shape (resamples, n)."""
    weights = np.zeros((resamples, sum(map(len, strata))))
    for members in strata:
        n = len(members)
        if n:
            drawn = rng.integers(0, n, (resamples, n)) + n * np.arange(resamples)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=resamples * n)
            weights[:, members] = counts.reshape(resamples, n)
    return weights


def _interval(drawn: Floats) -> Interval:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return (float("nan"), float("nan"))
    low, high = np.quantile(known, [_TAIL, 1.0 - _TAIL])
    return (float(low), float(high))
