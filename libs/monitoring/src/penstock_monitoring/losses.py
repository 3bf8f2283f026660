"""How wrong a prediction was, as one number that a change detector can watch."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
LARGEST_LOSS: Final = 5.0
"""Logarithmic loss, nats, beyond which a prediction is as wrong as it gets."""


def bounded_log_loss(labels: Floats, scores: Floats) -> Floats:
    """Return the logarithmic loss of each prediction, cut off and scaled to [0, 1].

    Of the bounded errors tried on five simulated streams (absolute, squared, 0/1), this one
    separates a change of concept from its absence best: the positives are few, and it counts a
    missed one for much.

    Parameters
    ----------
    labels
        0 or 1, shape (n,).
    scores
        Probability of 1, shape (n,).

    Examples
    --------
    >>> bounded_log_loss(np.array([1.0, 0.0]), np.array([0.0, 0.0])).round(3).tolist()
    [1.0, 0.0]
    """
    right = np.where(labels > 0.5, scores, 1.0 - scores)
    loss = np.abs(np.log(np.clip(right, np.exp(-LARGEST_LOSS), 1.0)))
    scaled: Floats = loss / LARGEST_LOSS
    return scaled


def expected_log_loss(scores: Floats) -> Floats:
    """Return the bounded loss that a calibrated model expects of its own scores.

    What is left of the loss without it has a mean of zero whatever the hour's or the season's share
    of positives: the shares move the plain loss, and only a change of concept moves the rest.

    Parameters
    ----------
    scores
        Probability of 1, shape (n,).

    Examples
    --------
    >>> expected_log_loss(np.array([0.0, 0.5, 1.0])).round(3).tolist()
    [0.008, 0.139, 0.008]
    """
    smallest = np.exp(-LARGEST_LOSS)
    p = np.clip(scores, smallest, 1.0 - smallest)
    entropy: Floats = -(p * np.log(p) + (1.0 - p) * np.log(1.0 - p)) / LARGEST_LOSS
    return entropy
