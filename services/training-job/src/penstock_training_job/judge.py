"""A candidate and the champion on the same labelled rows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from penstock_monitoring.confidence_intervals import RESAMPLES, paired_bootstrap
from penstock_training.trainers import Vector

MIN_POSITIVES: Final = 20
"""Fewer rows of one class than this tell nothing about an AUC."""


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


def is_enough(labels: Vector, min_rows: int) -> bool:
    """Return whether there are enough rows, and of both classes, for a comparison."""
    positives = int(labels.sum())
    rarer = min(positives, len(labels) - positives)
    return len(labels) >= min_rows and rarer >= MIN_POSITIVES


def compare(
    labels: Vector, candidate: Vector, champion: Vector, resamples: int = RESAMPLES
) -> Comparison:
    """Compare two models' scores of the same rows by a stratified paired bootstrap.

    Parameters
    ----------
    labels
        0 or 1, both present, shape (n,).
    candidate, champion
        Scores, shape (n,).
    """
    found = paired_bootstrap(labels, champion, candidate, stratified=True, resamples=resamples)
    return Comparison(found.rows, found.positives, found.second, found.first, *found.gap_interval)
