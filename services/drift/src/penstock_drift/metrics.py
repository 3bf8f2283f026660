"""The metrics of drift beyond the loop's: families, and the figures of one pipeline.

The figures per version (AUC, mean error) are for people; no decision rests on them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from penstock_monitoring.label_join import Pairs
from penstock_monitoring.observations import Floats
from penstock_monitoring.quality import auc
from penstock_schemas.records import DriftEvent
from prometheus_client import CollectorRegistry, Counter, Gauge

from penstock_drift.episodes import ERROR
from penstock_drift.monitor import DriftMonitor, Outcome

logger = logging.getLogger(__name__)

ROWS: Final = 20_000
"""Newest labels per version that its figures are computed from."""
VERSIONS: Final = 8
"""Most versions kept; the one without labels for longest is dropped first."""
_LABEL: Final = ["pipeline"]


class DriftFamilies:
    """The metric families, once per process.

    Parameters
    ----------
    registry
        Where they are exposed.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"penstock_drift_{name}", text, [*_LABEL, *labels], registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"penstock_drift_{name}", text, [*_LABEL, *labels], registry=registry)

        version = ("model", "version")
        self.score = gauge(
            "score",
            "Of the champion: losses in the detector's window over what its scores expect (subject "
            "error), or stability index of the last whole window (columns).",
            "subject",
        )
        self.threshold = gauge(
            "threshold", "What the score has to reach; NaN while nothing is suspected.", "subject"
        )
        self.episode = gauge("episode_open", "Whether an episode of drift is confirmed and lasts.")
        self.alarms = counter("events_total", "Drift events written.", "subject", "severity")
        self.requests = counter("retrain_requests_total", "Retrainings asked for.")
        self.observations = counter("observations_total", "Observations taken in.")
        self.labels = counter(
            "labels_total",
            "Outcomes of the label join: matured, late, early, duplicate, expired, orphan.",
            "outcome",
        )
        self.waiting = gauge("waiting", "Records in the label join.", "kind")
        self.error = gauge("error_mean", "Mean error over the newest joined labels.", *version)
        self.auc = gauge(
            "auc",
            "Area under the ROC curve over the newest joined labels of a version; begins anew "
            "with the process, as far as labels are not joined again.",
            *version,
        )
        self.auc_rows = gauge("auc_rows", "Joined labels that it is computed from.", *version)
        self.snapshot_bytes = gauge("snapshot_bytes", "Size of the last snapshot written.")
        self.snapshot_time = gauge(
            "snapshot_timestamp_seconds", "When the last committed snapshot was written."
        )
        self.restored = counter("state_restored_total", "Snapshots restored.")
        self.ignored = counter(
            "state_ignored_total", "Snapshots left aside: written under another pipeline.yaml."
        )
        self.reports = counter("reports_total", "Reports, by outcome: made, failed.", "outcome")


class DriftMetrics:
    """Metrics of one pipeline, set as of the last committed transaction.

    Parameters
    ----------
    families
        The process's metric families.
    pipeline
        Value of the label.
    psi_threshold
        What a stability index has to reach.
    """

    def __init__(self, families: DriftFamilies, pipeline: str, psi_threshold: float) -> None:
        self._families = families
        self._pipeline = pipeline
        self._psi_threshold = psi_threshold
        self.quality = VersionQuality(families, pipeline)
        self.snapshot_bytes = families.snapshot_bytes.labels(pipeline)
        self.snapshot_time = families.snapshot_time.labels(pipeline)
        self.restored = families.restored.labels(pipeline)
        self.ignored = families.ignored.labels(pipeline)
        self.reports_made = families.reports.labels(pipeline, "made")
        self.reports_failed = families.reports.labels(pipeline, "failed")
        self._counters = (
            families.requests.labels(pipeline),
            families.observations.labels(pipeline),
        )
        self._episode = families.episode.labels(pipeline)
        self._waiting = [families.waiting.labels(pipeline, k) for k in ("predictions", "labels")]

    def add_joined(self, outcome: Outcome) -> None:
        """Add the joined labels of a batch to the figures per version."""
        if len(outcome.pairs):
            self.quality.add_pairs(outcome.pairs, outcome.losses)

    def count_committed(
        self,
        labels: Mapping[str, int],
        events: Sequence[DriftEvent],
        requests: int,
        observations: int,
    ) -> None:
        """Count and log what is committed."""
        for counter, n in zip(self._counters, (requests, observations), strict=True):
            counter.inc(n)
        for outcome, n in labels.items():
            self._families.labels.labels(self._pipeline, outcome).inc(n)
        for event in events:
            self._families.alarms.labels(self._pipeline, event.subject, event.severity).inc()
            logger.warning(
                "%s: %s drift %s: %s is %.4f (threshold %.4f) for %s %s, episode %s",
                self._pipeline,
                event.kind,
                event.severity,
                event.subject,
                event.statistic,
                event.threshold,
                event.model_name,
                event.model_version,
                event.episode_id,
            )

    def show_monitor(self, monitor: DriftMonitor) -> None:
        """Set the gauges of episode, label join, scores and thresholds."""
        families, pipeline = self._families, self._pipeline
        self._episode.set(monitor.episodes.current.is_open)
        for gauge, n in zip(self._waiting, monitor.waiting, strict=True):
            gauge.set(n)
        standing = {ERROR: (monitor.error.level, monitor.error.threshold)}
        for name, state in monitor.psi.subjects.items():
            standing[name] = (state.value, self._psi_threshold)
        for name, (score, threshold) in standing.items():
            families.score.labels(pipeline, name).set(score)
            families.threshold.labels(pipeline, name).set(threshold)


class _NewestRows:
    """The newest scores, labels and errors of one version, in a ring."""

    def __init__(self) -> None:
        self._values = np.empty((ROWS, 3), np.float64)
        self._total = 0

    def append(self, values: Floats) -> None:
        """Add rows, shape (n, 3)."""
        values = values[-ROWS:]
        at = (self._total + np.arange(len(values))) % ROWS
        self._values[at] = values
        self._total += len(values)

    def copy(self) -> Floats:
        """Return the rows, in no order, shape (n, 3)."""
        return self._values[: min(self._total, ROWS)].copy()


class VersionQuality:
    """AUC and mean error of each version over its newest labels.

    Thread-safe: the loop adds pairs, a scrape computes the figures.
    """

    def __init__(self, families: DriftFamilies, pipeline: str) -> None:
        self._families = families
        self._pipeline = pipeline
        self._rows: dict[tuple[str, str], _NewestRows] = {}
        self._lock = threading.Lock()
        self._is_exported = True

    def add_pairs(self, pairs: Pairs, losses: Floats) -> None:
        """Add joined labels."""
        values = np.column_stack([pairs.scores, pairs.labels, losses])
        with self._lock:
            for code in np.unique(pairs.who).tolist():
                name, version, _ = pairs.names[code]
                rows = self._rows.pop((name, version), None) or _NewestRows()
                self._rows[name, version] = rows
                rows.append(values[pairs.who == code])
                self._is_exported = False
            while len(self._rows) > VERSIONS:
                gone = next(iter(self._rows))
                del self._rows[gone]
                self._remove(gone)

    def clear(self) -> None:
        """Drop all rows: they are joined again."""
        with self._lock:
            self._rows.clear()

    def export(self) -> None:
        """Set the gauges, if rows were added since the last call."""
        with self._lock:
            if self._is_exported:
                return
            self._is_exported = True
            copies = {version: rows.copy() for version, rows in self._rows.items()}
        families, pipeline = self._families, self._pipeline
        for version, rows in copies.items():
            families.auc.labels(pipeline, *version).set(auc(rows[:, 1], rows[:, 0]))
            families.auc_rows.labels(pipeline, *version).set(len(rows))
            families.error.labels(pipeline, *version).set(float(rows[:, 2].mean()))

    def _remove(self, version: tuple[str, str]) -> None:
        families = self._families
        removals: list[Callable[..., None]] = [
            families.auc.remove,
            families.auc_rows.remove,
            families.error.remove,
        ]
        for remove in removals:
            try:
                remove(self._pipeline, *version)
            except KeyError:  # it was never exported
                continue
