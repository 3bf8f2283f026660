"""Training features: the stream's code over a table of past events, ordered by time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from penstock_pipelines.model import PipelineConfig

from penstock_features.aggregates import AggregateTable
from penstock_features.arrow_columns import Floats, texts, times_ms
from penstock_features.vectorizer import Matrix, Vectorizer


def history(
    config: PipelineConfig, columns: pa.RecordBatch, online: Mapping[str, Floats]
) -> Matrix:
    """Return the feature vectors that the stream would have made of past events.

    Parameters
    ----------
    columns
        The events, n rows, ordered by event time.
    online
        By ``view:feature``, shape (n,): the value of each event's entity; NaN where not known.

    Returns
    -------
    Shape (n, d), float32. A row the stream would have refused is NaN throughout and is not
    added to the aggregates.
    """
    vectorizer = Vectorizer(config)
    part = vectorizer.event_part(columns)
    kept = np.ones(columns.num_rows, dtype=np.bool_)
    kept[[row for row, _ in part.violations]] = False
    rows = np.flatnonzero(kept)
    good = columns.take(pa.array(rows))
    table = AggregateTable(config)
    aggregates = table.update(
        texts(good.column(config.event.key)),
        times_ms(good.column(config.event.time)),
        table.layout.values(good),
    )
    matrix = part.matrix
    there = {name: values[rows] for name, values in online.items()}
    matrix[rows] = vectorizer.complete(matrix[rows], aggregates, there)
    matrix[~kept] = np.nan
    return matrix
