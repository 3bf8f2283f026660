"""The training reference: what features and score looked like when the model was trained.

Training logs it as an artifact of its run; drift detection compares windows of the stream with it.
Only histograms, so that a comparison costs no raw rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from penstock_schemas.errors import ConfigError

from penstock_monitoring.psi import Counts

REFERENCE_FILE: Final = "reference.json"
"""Name of the artifact: the histograms."""
SAMPLE_FILE: Final = "reference_sample.parquet"
"""Name of the artifact with some of the rows: the feature columns, score and label."""
SCORE: Final = "score"
"""Name of the histogram of the model's own output."""
BINS: Final = 10

Values = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of one column in bins that hold about the same share of the reference each.

    Parameters
    ----------
    name
        Column of the feature matrix, or `SCORE`.
    edges
        Inner edges, ascending, k - 1 of them; a value on an edge lies above it.
    counts
        k counts.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def count(self, values: Values) -> Counts:
        """Return how many values fall into each bin, shape (k,).

        Examples
        --------
        >>> Histogram("x", (0.0, 1.0), (1, 1, 1)).count(np.array([-1.0, 0.0, 5.0])).tolist()
        [1, 1, 1]
        """
        bins = np.searchsorted(np.asarray(self.edges), values, side="right")
        return np.bincount(bins, minlength=len(self.counts)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Reference:
    """Histograms of a training set's features and of the model's scores on it.

    Parameters
    ----------
    rows
        Rows counted.
    histograms
        One per feature column, in order, then the score's.
    """

    rows: int
    histograms: tuple[Histogram, ...]

    @property
    def reference_id(self) -> str:
        """``sha256:<hex>`` of the canonical JSON."""
        return f"sha256:{hashlib.sha256(self.to_json().encode()).hexdigest()}"

    def to_json(self) -> str:
        """Return the canonical JSON document."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Reference:
        """Read a document.

        Raises
        ------
        ConfigError
            If it is none of ours.
        """
        try:
            document = json.loads(text)
            histograms = tuple(
                Histogram(
                    str(h["name"]),
                    tuple(float(e) for e in h["edges"]),
                    tuple(int(c) for c in h["counts"]),
                )
                for h in document["histograms"]
            )
            return cls(int(document["rows"]), histograms)
        except (ValueError, KeyError, TypeError) as exc:
            raise ConfigError(f"{REFERENCE_FILE}: not a reference: {exc!r}") from exc


def make_reference(
    names: Sequence[str], matrix: Values, scores: Values, bins: int = BINS
) -> Reference:
    """Return the reference of a training set.

    Parameters
    ----------
    names
        Column names, d of them.
    matrix
        Shape (n, d), finite.
    scores
        The model's score of each row, shape (n,).
    """
    columns = [*matrix.T, scores]
    return Reference(
        len(matrix),
        tuple(_histogram(n, c, bins) for n, c in zip([*names, SCORE], columns, strict=True)),
    )


def _histogram(name: str, values: Values, bins: int) -> Histogram:
    # Values that occur, not means of two: each bin has its lower edge in it, so none is empty. A
    # column of few values (one-hot) has edges in common, and so fewer bins.
    quantiles = np.quantile(values, np.linspace(0.0, 1.0, bins + 1)[1:-1], method="higher")
    edges = tuple(float(e) for e in np.unique(quantiles) if e > values.min())
    if not edges and values.min() < values.max():
        edges = (float(np.nextafter(values.min(), np.inf)),)  # a rare value apart from the usual
    empty = Histogram(name, edges, (0,) * (len(edges) + 1))
    return Histogram(name, edges, tuple(empty.count(values).tolist()))
