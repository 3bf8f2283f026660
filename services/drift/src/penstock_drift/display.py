"""Shows how things stand: gauges and counters of the monitor loop."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from penstock_schemas.records import DriftEvent

from penstock_drift.findings import ERROR
from penstock_drift.metrics import DriftMetrics
from penstock_drift.monitor import DriftMonitor, Outcome
from penstock_drift.quality import Quality

logger = logging.getLogger(__name__)


class Display:
    """The metrics of one pipeline, kept up with its monitor.

    Parameters
    ----------
    metrics
        Where counters and gauges are.
    quality
        Figures per version.
    psi_threshold
        What a stability index has to reach.
    """

    def __init__(self, metrics: DriftMetrics, quality: Quality, psi_threshold: float) -> None:
        self.metrics = metrics
        self._quality = quality
        self._psi_threshold = psi_threshold

    def clear(self) -> None:
        """Forget the joined labels: they are joined again."""
        self._quality.clear()

    def add(self, outcome: Outcome) -> None:
        """Take joined labels into the figures per version."""
        if len(outcome.pairs):
            self._quality.add(outcome.pairs, outcome.losses)

    def count(
        self, labels: Counter[str], events: Sequence[DriftEvent], requests: int, observations: int
    ) -> None:
        """Count what is committed."""
        families, pipeline = self.metrics.families, self.metrics.pipeline
        for outcome, n in labels.items():
            families.labels.labels(pipeline, outcome).inc(n)
        for event in events:
            families.alarms.labels(pipeline, event.subject, event.severity).inc()
            logger.warning(
                "%s: %s drift %s: %s is %.4f (threshold %.4f) for %s %s, episode %s",
                pipeline,
                event.kind,
                event.severity,
                event.subject,
                event.statistic,
                event.threshold,
                event.model_name,
                event.model_version,
                event.episode_id,
            )
        self.metrics.requests.inc(requests)
        self.metrics.observations.inc(observations)

    def show(self, monitor: DriftMonitor) -> None:
        """Set the gauges."""
        self.metrics.episode.set(monitor.episode.is_open)
        predictions, labels = monitor.waiting
        self.metrics.predictions_waiting.set(predictions)
        self.metrics.labels_waiting.set(labels)
        self.metrics.subject(ERROR, monitor.error.level, monitor.error.threshold)
        for name, state in monitor.psi.subjects.items():
            self.metrics.subject(name, state.value, self._psi_threshold)
