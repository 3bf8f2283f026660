"""Has a report made for each episode of drift that has none yet.

Episodes are read from the drift topic, so that it does not matter when this process started, or
whether the loop was killed between an alarm and its report.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from confluent_kafka import Message
from penstock_monitoring.observations import PARTITION
from penstock_registry.schema_registry import RegistryClient
from penstock_schemas.codec import decode_one
from penstock_schemas.errors import PenstockError, RecordError, RetryableError
from penstock_schemas.records import DriftEvent
from penstock_schemas.schema_files import schema_text
from penstock_streaming.log_view import LogView

from penstock_drift.metrics import DriftMetrics
from penstock_drift.settings import DriftSettings

logger = logging.getLogger(__name__)

POLL_S: Final = 1.0
REFUSED_WAIT_S: Final = 10.0
STOP_S: Final = 5.0
LAST_LINES: Final = 3


@dataclass(slots=True)
class Pending:
    """An episode whose report is to be made, and its confirmed events."""

    events: list[DriftEvent]
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class ReportedPipeline:
    """A pipeline whose episodes are reported."""

    folder: Path
    topic: str
    metrics: DriftMetrics
    pending: dict[str, Pending] = field(default_factory=dict)


class ReportKeeper:
    """Follows the drift topics and makes one report at a time.

    Parameters
    ----------
    settings
        Of the service.
    pipelines
        By name.
    """

    def __init__(self, settings: DriftSettings, pipelines: Mapping[str, ReportedPipeline]) -> None:
        self._settings = settings
        self._pipelines = pipelines
        self._by_topic = {reported.topic: reported for reported in pipelines.values()}
        self._registry = RegistryClient(settings.registry)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)

    def start_thread(self) -> None:
        """Follow the drift topics on a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """Stop; a report that is being made is given up and made after the next start."""
        self._stop.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except PenstockError as exc:  # the broker's: a refusal may pass as an outage does
                logger.warning("reports have to wait: %s", exc)
                self._stop.wait(POLL_S if isinstance(exc, RetryableError) else REFUSED_WAIT_S)
            except Exception:
                # Reports are for people: without them the service still does its work.
                logger.exception("no more reports until the next start")
                return

    def _follow(self) -> None:
        topics = [(topic, PARTITION) for topic in self._by_topic]
        with closing(LogView(self._settings.kafka).follow(topics, self._stop.is_set)) as batches:
            for messages in batches:
                for message in messages:
                    self._note(message)
                if not messages:
                    self._make_next()

    def _note(self, message: Message) -> None:
        reported = self._by_topic[str(message.topic())]
        try:
            value = message.value() or b""
            schema = schema_text("drift_event.avsc")
            event = DriftEvent.from_dict(decode_one(value, self._registry.schema_text, schema))
        except RecordError as exc:
            logger.error("%s offset %s: unreadable: %s", reported.topic, message.offset(), exc)
            return
        if event.severity != "detected":
            return
        pending = reported.pending.setdefault(event.episode_id, Pending([]))
        if event.event_id not in [known.event_id for known in pending.events]:
            pending.events.append(event)

    def _make_next(self) -> None:
        """Make the report of the newest episode that has none."""
        for name, reported in self._pipelines.items():
            folder = self._settings.reports_dir / name
            for episode_id, pending in reversed(reported.pending.items()):
                is_made = (folder / f"{episode_id}.json").exists()
                if not is_made and pending.attempts < self._settings.report_attempts:
                    pending.attempts += 1
                    self._make(reported, episode_id, pending)
                    return

    def _make(self, reported: ReportedPipeline, episode_id: str, pending: Pending) -> None:
        command = [sys.executable, "-m", "penstock_drift.report", str(reported.folder)]
        events = json.dumps([event.to_dict() for event in pending.events])
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        said = self._wait(process, events)
        if process.returncode == 0:
            reported.metrics.reports_made.inc()
            logger.info("report of %s is made", episode_id)
        elif not self._stop.is_set():
            reported.metrics.reports_failed.inc()
            lines = said.decode(errors="replace").splitlines()[-LAST_LINES:]
            logger.warning(
                "no report of %s, attempt %d: exit code %s: %s",
                episode_id,
                pending.attempts,
                process.returncode,
                " / ".join(lines),
            )

    def _wait(self, process: subprocess.Popen[bytes], events: str) -> bytes:
        """Give the process its input and its time; return what it has said."""
        left_s = self._settings.report_timeout_s
        sent: bytes | None = events.encode()
        while True:
            try:
                return process.communicate(sent, timeout=POLL_S)[1]
            except subprocess.TimeoutExpired:
                sent, left_s = None, left_s - POLL_S
                if left_s <= 0.0 or self._stop.is_set():
                    process.kill()
                    return process.communicate()[1]
