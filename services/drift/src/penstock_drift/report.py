"""One drift report: ``python -m penstock_drift.report FOLDER < events.json``, run by the service.

The rows that the first event rests on are read again by their offsets and compared with the
training sample by Evidently. Settings are those of the service; the input is a JSON list of one
episode's confirmed drift events.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from penstock_monitoring.label_join import StreamJoin
from penstock_monitoring.losses import bounded_log_loss
from penstock_monitoring.observations import Floats, Observations
from penstock_monitoring.reference import SAMPLE_FILE, SCORE
from penstock_pipelines.loader import load_pipeline
from penstock_pipelines.model import PipelineConfig
from penstock_registry.schema_registry import RegistryClient
from penstock_schemas.errors import FatalError, PenstockError
from penstock_schemas.records import DriftEvent
from penstock_service.logs import configure_logging
from penstock_streaming.timing import Deadline

from penstock_drift.episodes import ERROR
from penstock_drift.references import TrackingServer
from penstock_drift.settings import DriftSettings, load_settings
from penstock_drift.state import History, KafkaHistory

logger = logging.getLogger(__name__)

LABEL: Final = "label"
NICENESS: Final = 10
THRESHOLD: Final = 0.1
"""Wasserstein distance, in standard deviations of the reference, and Jensen-Shannon distance."""
FEW_VALUES: Final = 2
"""A column of so few distinct values in the reference is a category."""


def main(arguments: list[str] | None = None) -> int:
    """Make one report; return 0, or 1 if that is not possible."""
    parser = argparse.ArgumentParser(prog="penstock-drift-report", description="One drift report.")
    parser.add_argument("folder", type=Path, help="pipeline folder")
    folder = parser.parse_args(arguments).folder
    os.nice(NICENESS)
    try:
        settings = load_settings()
        configure_logging("drift-report", settings.log_level)
        events = [DriftEvent.from_dict(value) for value in json.load(sys.stdin)]
        make(settings, load_pipeline(folder).config, events)
    except PenstockError as exc:
        logger.error("no report: %s", exc)
        return 1
    return 0


def make(settings: DriftSettings, config: PipelineConfig, events: list[DriftEvent]) -> None:
    """Make the report of an episode.

    Raises
    ------
    PenstockError
        If the rows or the reference cannot be had.
    """
    first = events[0]
    registry = RegistryClient(settings.registry)
    history = KafkaHistory(settings.kafka, config.topic_names, registry.schema_text)
    current = evidence(config, first, history, Deadline(settings.report_timeout_s / 2))
    reference = _reference(settings, first)
    report, page = make_report(current, reference)
    document = {
        "episode_id": first.episode_id,
        "event_ids": [event.event_id for event in events],
        "rows": len(current),
        "drifted": drifted_columns(report),
        "evidently": report,
    }
    write_report(settings.reports_dir / config.pipeline, first.episode_id, document, page)


def _reference(settings: DriftSettings, event: DriftEvent) -> pd.DataFrame:
    server = TrackingServer(settings.mlflow_url, settings.mlflow_timeout_s)
    content = server.artifact(event.model_name, event.model_version, SAMPLE_FILE)
    if content is None:
        raise FatalError(f"{event.model_name} {event.model_version} has no {SAMPLE_FILE}")
    frame = pd.read_parquet(io.BytesIO(content))
    return with_error(frame) if LABEL in frame.columns else frame


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


class _ChampionRows:
    """The champion's predictions in a piece of the log."""

    def __init__(self, config: PipelineConfig, event: DriftEvent) -> None:
        self._names = list(config.feature_names)
        self._columns = [*config.monitored_features, SCORE]
        self.own = (event.model_name, event.model_version, "champion")
        self._parts: list[pd.DataFrame] = []

    def add_batch(self, batch: Observations) -> None:
        """Add the champion's predictions of a batch."""
        if self.own not in batch.names:
            return
        rows = np.flatnonzero(batch.who == batch.names.index(self.own))
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
    predictions = _ChampionRows(config, event)
    for batch in batches:
        predictions.add_batch(batch.after(event.window.first_offset))
    return predictions.frame()


def _labelled(
    config: PipelineConfig, event: DriftEvent, batches: Iterator[Observations]
) -> pd.DataFrame:
    """Return the predictions of events since the change that have met their label."""
    predictions = _ChampionRows(config, event)
    join = StreamJoin(config.labels.max_waiting, config.labels.horizon_s * 1000.0)
    offsets: list[int] = []
    labels: list[float] = []
    for batch in batches:
        predictions.add_batch(batch)
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


def make_report(current: pd.DataFrame, reference: pd.DataFrame) -> tuple[dict[str, Any], str]:
    """Compare the columns that both have.

    Returns
    -------
    The report as plain values, and as an HTML page that needs no other file.
    """
    # Before its import: else Evidently reports its use over the network.
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    shared = [name for name in current.columns if name in reference.columns]
    categories = [n for n in shared if n == LABEL or reference[n].nunique() <= FEW_VALUES]
    definition = DataDefinition(
        numerical_columns=[n for n in shared if n not in categories],
        categorical_columns=categories,
    )
    preset = DataDriftPreset(
        num_method="wasserstein",
        num_threshold=THRESHOLD,
        cat_method="jensenshannon",
        cat_threshold=THRESHOLD,
    )
    snapshot = Report([preset]).run(
        Dataset.from_pandas(_plain(current[shared]), definition),
        Dataset.from_pandas(_plain(reference[shared]), definition),
    )
    return json.loads(snapshot.json()), snapshot.get_html_str(as_iframe=False)


def drifted_columns(report: dict[str, Any]) -> list[str]:
    """Return the columns over their threshold, the furthest first."""
    distances = {
        str(metric["config"]["column"]): float(metric["value"])
        for metric in report["metrics"]
        if metric["config"]["type"].endswith(":ValueDrift")
    }
    over = [name for name, value in distances.items() if value >= THRESHOLD]
    return sorted(over, key=lambda name: -distances[name])


def write_report(folder: Path, name: str, document: dict[str, Any], page: str) -> None:
    """Write both files so that each is whole or not there; the JSON comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".html", page), (".json", json.dumps(document, indent=1))):
        temporary = folder / f".{name}{suffix}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / f"{name}{suffix}")


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index(drop=True).astype("float64")


if __name__ == "__main__":
    sys.exit(main())
