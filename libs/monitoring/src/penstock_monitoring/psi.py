"""The population stability index of two histograms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
_PRIOR = 0.5
"""Added to each count, so that an empty bin is rare and not impossible."""


def psi(reference: Counts, current: Counts) -> float:
    """Return the population stability index of ``current`` against ``reference``.

    Below 0.1 is usually called stable and above 0.2 changed; sampling alone gives about
    (bins - 1) * (1 / n_reference + 1 / n_current).

    Parameters
    ----------
    reference, current
        Counts per bin, the same bins, shape (k,).

    References
    ----------
    Yurdakul, B.: Statistical Properties of Population Stability Index, 2018, eq. 2.1.

    Examples
    --------
    >>> round(psi(np.array([50, 50]), np.array([50, 50])), 6)
    0.0
    >>> psi(np.array([500, 500]), np.array([900, 100])) > 0.2
    True
    """
    if reference.shape != current.shape:
        raise ValueError(f"expected {reference.shape[0]} bins, got {current.shape[0]}")
    expected = _shares(reference)
    actual = _shares(current)
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def _shares(counts: Counts) -> npt.NDArray[np.float64]:
    smoothed = counts + _PRIOR
    shares: npt.NDArray[np.float64] = smoothed / smoothed.sum()
    return shares
