"""Whether a candidate is better than the champion: both on the same rows. Pure.

The interval is that of a paired bootstrap: rows are drawn again with their two scores, so that
what is hard for both does not widen it. Positives and negatives are drawn apart, since a draw
without a positive has no AUC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from penstock_training.trainers import Vector

RESAMPLES: Final = 1_000
MIN_POSITIVES: Final = 20
"""Fewer rows of one class than this tell nothing about an AUC."""
_SEED: Final = 0
_CHUNK_CELLS: Final = 4_000_000
"""Rows times resamples in memory at once."""
_TAILS: Final = (2.5, 97.5)
"""Percentiles of a 95 % interval."""
Weights = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same rows.

    Parameters
    ----------
    gain_low, gain_high
        95 % interval of the candidate's AUC less the champion's.
    """

    rows: int
    positives: int
    candidate_auc: float
    champion_auc: float
    gain_low: float
    gain_high: float

    @property
    def gain(self) -> float:
        """The candidate's AUC less the champion's."""
        return self.candidate_auc - self.champion_auc


def is_enough(labels: Vector, min_rows: int) -> bool:
    """Tell whether there are enough rows, and of both classes, for a comparison."""
    positives = int(labels.sum())
    rarer = min(positives, len(labels) - positives)
    return len(labels) >= min_rows and rarer >= MIN_POSITIVES


def compare(
    labels: Vector, candidate: Vector, champion: Vector, resamples: int = RESAMPLES
) -> Comparison:
    """Compare two models' scores of the same rows.

    Parameters
    ----------
    labels
        0 or 1, both present, shape (n,).
    candidate, champion
        Scores, shape (n,).

    References
    ----------
    Efron, B., Tibshirani, R.: An Introduction to the Bootstrap, 1993, section 13.3.

    Examples
    --------
    >>> y = np.array([0.0, 0.0, 1.0, 1.0])
    >>> found = compare(y, np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.5, 0.5, 0.5, 0.5]))
    >>> found.candidate_auc, found.champion_auc, found.gain_low, found.gain_high
    (1.0, 0.5, 0.5, 0.5)
    """
    rng = np.random.default_rng(_SEED)
    at_once = max(1, _CHUNK_CELLS // len(labels))
    gains = []
    for first in range(0, resamples, at_once):
        weights = _draw(rng, labels, min(at_once, resamples - first))
        gains.append(_aucs(labels, candidate, weights) - _aucs(labels, champion, weights))
    low, high = np.percentile(np.concatenate(gains), _TAILS)
    return Comparison(
        rows=len(labels),
        positives=int(labels.sum()),
        candidate_auc=auc(labels, candidate),
        champion_auc=auc(labels, champion),
        gain_low=float(low),
        gain_high=float(high),
    )


def auc(labels: Vector, scores: Vector) -> float:
    """Return the area under the ROC curve; a tie counts half."""
    return float(_aucs(labels, scores, np.ones((1, len(labels))))[0])


def _draw(rng: np.random.Generator, labels: Vector, resamples: int) -> Weights:
    """Return how often each row is drawn in each resample, shape (resamples, n)."""
    weights = np.zeros((resamples, len(labels)))
    for members in (np.flatnonzero(labels > 0.5), np.flatnonzero(labels <= 0.5)):
        n = len(members)
        drawn = rng.integers(0, n, (resamples, n)) + n * np.arange(resamples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n)
        weights[:, members] = counts
    return weights


def _aucs(labels: Vector, scores: Vector, weights: Weights) -> Vector:
    """Return the weighted AUC of each row of weights, shape (resamples,)."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    ties = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    drawn = weights[:, order]
    positive = labels[order] > 0.5
    above = np.add.reduceat(drawn * positive, ties, axis=1)
    below = np.add.reduceat(drawn * ~positive, ties, axis=1)
    under = np.cumsum(below, axis=1) - below / 2
    found: Vector = (above * under).sum(axis=1) / (above.sum(axis=1) * below.sum(axis=1))
    return found


def offline_objection(found: Comparison, min_gain: float) -> str:
    """Return why a candidate must not reach any traffic, by its holdout; empty if it may."""
    if found.gain_high >= min_gain:
        return ""
    return (
        f"on the {found.rows} held-out rows its AUC is {found.candidate_auc:.4f}, the champion's "
        f"{found.champion_auc:.4f}: the gain is below {min_gain:g} with 95 % confidence "
        f"(at most {found.gain_high:+.4f})"
    )


def canary_objection(found: Comparison, min_gain: float) -> str:
    """Return why a candidate must not take over, by its canary; empty if it shall."""
    if found.gain_low >= min_gain:
        return ""
    return (
        f"on the same {found.rows} canary rows its AUC is {found.candidate_auc:.4f}, the "
        f"champion's {found.champion_auc:.4f}: a gain of {min_gain:g} is not sure with 95 % "
        f"confidence ({found.gain_low:+.4f} to {found.gain_high:+.4f})"
    )
