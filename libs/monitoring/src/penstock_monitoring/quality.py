"""How well a model's scores separate positives from negatives: AUC, average precision, log loss.

Labels come first, then scores, as in scikit-learn; rows may have weights. Equal scores are one step
of the ranking: in the AUC a tie counts half.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def auc(labels: Floats, scores: Floats) -> float:
    """Return the area under the ROC curve; NaN unless both classes are there.

    Parameters
    ----------
    labels
        0 or 1, shape (n,).
    scores
        Higher means more likely 1, shape (n,).

    Examples
    --------
    >>> auc(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    return float(weighted_auc(labels, scores, np.ones((1, len(labels))))[0])


def weighted_auc(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    """Return the AUC under each of several weightings of the same rows, shape (k,).

    The scores are sorted once: the many weightings of a bootstrap cost little each.

    Parameters
    ----------
    weights
        Not negative, shape (k, n).
    """
    if not len(labels):
        return np.full(len(weights), np.nan)
    positives, negatives = _steps(labels, scores, weights)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    areas = np.full(len(weights), np.nan)
    np.divide((positives * below).sum(axis=1), pairs, out=areas, where=pairs > 0)
    return areas


def average_precision(labels: Floats, scores: Floats, weights: Floats | None = None) -> float:
    """Return the precision averaged over the recall; NaN without a positive.

    Parameters
    ----------
    weights
        Not negative, shape (n,); one each if None.

    Examples
    --------
    >>> round(average_precision(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.4, 0.3, 0.8])), 4)
    0.8333
    """
    ones = np.ones(len(labels)) if weights is None else weights
    if not (ones * (labels > 0.5)).any():
        return float("nan")
    positives, negatives = (s[0, ::-1] for s in _steps(labels, scores, ones[None, :]))
    hits = np.cumsum(positives)
    flagged = hits + np.cumsum(negatives)
    precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
    return float((positives * precision).sum() / hits[-1])


def log_loss(labels: Floats, scores: Floats, weights: Floats | None = None) -> float:
    """Return the mean logarithmic loss, nats; scores are kept off 0 and 1 by a rounding error.

    Parameters
    ----------
    scores
        Probability of 1, shape (n,).
    weights
        Not negative, shape (n,); one each if None.

    Examples
    --------
    >>> round(log_loss(np.array([1.0, 0.0]), np.array([0.5, 0.5])), 4)
    0.6931
    """
    rounding = np.finfo(scores.dtype).eps
    p = np.clip(scores, rounding, 1.0 - rounding)
    return float(np.average(-np.log(np.where(labels > 0.5, p, 1.0 - p)), weights=weights))


def _steps(labels: Floats, scores: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the weight of positives and of negatives per distinct score, shape (k, m)."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    drawn = weights[:, order]
    is_positive = labels[order] > 0.5
    return (
        np.add.reduceat(drawn * is_positive, starts, axis=1),
        np.add.reduceat(drawn * ~is_positive, starts, axis=1),
    )
