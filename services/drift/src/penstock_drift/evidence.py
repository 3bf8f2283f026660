"""The rows that a drift event rests on, read again by their offsets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd
from penstock_monitoring.label_join import StreamJoin
from penstock_monitoring.losses import bounded_log_loss
from penstock_monitoring.observations import Floats, Observations
from penstock_monitoring.reference import SCORE
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.errors import FatalError
from penstock_schemas.records import DriftEvent
from penstock_streaming.timing import Deadline

from penstock_drift.findings import ERROR
from penstock_drift.history import History

LABEL: Final = "label"


def evidence(
    config: PipelineConfig, event: DriftEvent, history: History, deadline: Deadline
) -> pd.DataFrame:
    """Return the evidence window of an event.

    Parameters
    ----------
    deadline
        For reading.

    Returns
    -------
    ``event.window.rows`` rows: the monitored columns and the score; of a concept drift also label
    and error.

    Raises
    ------
    FatalError
        If the log does not hold them any more.
    BrokerUnavailable
        If it cannot be read in time.
    """
    window = event.window
    rows_of = _labelled if event.kind == "concept" else _predicted
    # Labels that came before their predictions lie further back.
    for reach in (0, config.labels.max_waiting):
        start = max(0, window.first_offset - reach)
        batches = history.observations(start, window.last_offset + 1, deadline)
        frame = rows_of(config, event, batches)
        if len(frame) == window.rows:
            break
    if len(frame) != window.rows:
        raise FatalError(
            f"event {event.event_id}: expected {window.rows} rows from offset "
            f"{window.first_offset} to {window.last_offset}, got {len(frame)}"
        )
    return frame


class _Predictions:
    """The champion's predictions in a piece of the log."""

    def __init__(self, config: PipelineConfig, event: DriftEvent) -> None:
        self._names = list(config.feature_names)
        self._columns = [*config.monitored_features, SCORE]
        self._own = (event.model_name, event.model_version, "champion")
        self._parts: list[pd.DataFrame] = []

    @property
    def own(self) -> tuple[str, str, str]:
        """Who has predicted them."""
        return self._own

    def add(self, batch: Observations) -> None:
        """Take a batch in."""
        if self._own not in batch.names:
            return
        rows = np.flatnonzero(batch.who == batch.names.index(self._own))
        rows, matrix = batch.matrix(rows, len(self._names))
        frame = pd.DataFrame(matrix, columns=self._names, index=batch.offsets[rows])
        frame[SCORE] = batch.scores[rows]
        self._parts.append(frame[self._columns])

    def frame(self) -> pd.DataFrame:
        """Return all rows by offset."""
        if not self._parts:
            return pd.DataFrame(columns=self._columns, dtype=np.float64)
        return pd.concat(self._parts)


def _predicted(
    config: PipelineConfig, event: DriftEvent, batches: Iterator[Observations]
) -> pd.DataFrame:
    """Return the predictions from the window's first one on."""
    predictions = _Predictions(config, event)
    for batch in batches:
        predictions.add(batch.after(event.window.first_offset))
    return predictions.frame()


def _labelled(
    config: PipelineConfig, event: DriftEvent, batches: Iterator[Observations]
) -> pd.DataFrame:
    """Return the predictions of events since the change that have met their label."""
    predictions = _Predictions(config, event)
    join = StreamJoin(config.labels.max_waiting, config.labels.horizon_s * 1000.0)
    offsets: list[int] = []
    labels: list[float] = []
    for batch in batches:
        predictions.add(batch)
        pairs, _ = join.join(batch)
        if predictions.own not in pairs.names:
            continue
        is_own = pairs.who == pairs.names.index(predictions.own)
        chosen = is_own & (pairs.times >= event.window.first_time)
        offsets.extend(pairs.offsets[chosen].tolist())
        labels.extend(pairs.labels[chosen].tolist())
    # The detector's journal begins somewhere: what it has seen are the newest ones.
    known = pd.Series(labels, index=offsets, dtype=np.float64)[-event.window.rows :]
    frame = predictions.frame()
    known = known[known.index.isin(frame.index)]
    return with_error(frame.loc[known.index].assign(**{LABEL: known}))


def with_error(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows with score and label together with their error."""
    labels: Floats = frame[LABEL].to_numpy(np.float64)
    return frame.assign(**{ERROR: bounded_log_loss(labels, frame[SCORE].to_numpy(np.float64))})
