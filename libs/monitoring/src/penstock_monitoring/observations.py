"""The observations topic: predictions and labels re-keyed by event id, in one partition.

Its offsets are the one order in which drift sees them, today and in every repetition (ADR 0013).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

PARTITION: Final = 0
"""The only partition of the observations topic, and of the topics that follow from it."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
Who = tuple[str, str, str]
"""Model name, model version and variant of a prediction; empty in a label."""


@dataclass(frozen=True, slots=True)
class Observations:
    """Observations in the order of the log; columns of n rows.

    Parameters
    ----------
    offsets
        In the topic's one partition, ascending; there are gaps.
    ids
        Event ids.
    times
        Of a prediction its event time, of a label when it became known; milliseconds, UTC.
    labels
        NaN in a prediction.
    scores
        NaN in a label.
    who
        Who predicted: index into ``names``.
    names
        What stands in ``who``.
    features
        A list of float32 per row.
    """

    offsets: Ints
    ids: list[str]
    times: Ints
    labels: Floats
    scores: Floats
    who: Ints
    names: list[Who]
    features: pa.Array

    def __len__(self) -> int:
        return len(self.ids)

    def after(self, offset: int) -> Observations:
        """Return those from ``offset`` on."""
        at = int(np.searchsorted(self.offsets, offset))
        if at == 0:
            return self
        return replace(
            self,
            offsets=self.offsets[at:],
            ids=self.ids[at:],
            times=self.times[at:],
            labels=self.labels[at:],
            scores=self.scores[at:],
            who=self.who[at:],
            features=self.features[at:],
        )

    def matrix(self, rows: Ints, width: int) -> tuple[Ints, Matrix]:
        """Return the features of predictions that have the width asked for.

        Returns
        -------
        Those of ``rows`` that have it, and their features, shape (m, width).
        """
        lengths = self.features.value_lengths().to_numpy(zero_copy_only=False)
        kept = rows[lengths[rows] == width]
        starts = self.features.offsets.to_numpy()[:-1][kept]
        values = self.features.values.to_numpy(zero_copy_only=False)
        index = starts[:, None] + np.arange(width)
        return kept, values[index].astype(np.float32, copy=False)


def observations_of(columns: pa.RecordBatch, offsets: Ints) -> Observations:
    """Return decoded records of observation.avsc as `Observations`."""
    parts = ("model_name", "model_version", "variant")
    coded = [columns.column(name).dictionary_encode() for name in parts]
    sizes = [max(1, len(c.dictionary)) for c in coded]
    codes = [c.indices.to_numpy(zero_copy_only=False).astype(np.int64) for c in coded]
    combined = (codes[0] * sizes[1] + codes[1]) * sizes[2] + codes[2]
    found, who = np.unique(combined, return_inverse=True)
    texts = [c.dictionary.to_pylist() for c in coded]
    names: list[Who] = []
    for code in found.tolist():
        rest, variant = divmod(code, sizes[2])
        model, version = divmod(rest, sizes[1])
        names.append((texts[0][model], texts[1][version], texts[2][variant]))
    return Observations(
        offsets=offsets,
        ids=columns.column("event_id").to_pylist(),
        times=columns.column("time").cast(pa.int64()).to_numpy(),
        labels=columns.column("label").to_numpy(zero_copy_only=False),
        scores=columns.column("score").to_numpy(zero_copy_only=False),
        who=who.astype(np.int64),
        names=names,
        features=columns.column("features"),
    )
