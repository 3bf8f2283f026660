"""Command line: ``python -m penstock_drift.report FOLDER < events.json``, by the service itself.

Settings are those of the service. The input is a JSON list of one episode's confirmed drift events;
the first one's window is shown.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import sys
from pathlib import Path

import pandas as pd
from penstock_monitoring.reference import SAMPLE_FILE
from penstock_pipelines.loader import load_pipeline
from penstock_pipelines.model import PipelineConfig
from penstock_registry.client import RegistryClient
from penstock_schemas.errors import FatalError, PenstockError
from penstock_schemas.records import DriftEvent
from penstock_service.logs import configure_logging
from penstock_streaming.timing import Deadline

from penstock_drift.evidence import LABEL, evidence, with_error
from penstock_drift.history import KafkaHistory
from penstock_drift.references import TrackingServer
from penstock_drift.report.drift_report import document, make_report, write
from penstock_drift.settings import DriftSettings, load_settings

logger = logging.getLogger(__name__)
NICENESS = 10


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
    ids = [event.event_id for event in events]
    folder = settings.reports_dir / config.pipeline
    write(folder, first.episode_id, document(first.episode_id, ids, len(current), report), page)


def _reference(settings: DriftSettings, event: DriftEvent) -> pd.DataFrame:
    server = TrackingServer(settings.mlflow_url, settings.mlflow_timeout_s)
    content = server.artifact(event.model_name, event.model_version, SAMPLE_FILE)
    if content is None:
        raise FatalError(f"{event.model_name} {event.model_version} has no {SAMPLE_FILE}")
    frame = pd.read_parquet(io.BytesIO(content))
    return with_error(frame) if LABEL in frame.columns else frame


if __name__ == "__main__":
    sys.exit(main())
