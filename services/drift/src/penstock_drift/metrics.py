"""What drift counts and shows beyond the loop; the registry is passed in."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

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
    """Metrics of one pipeline.

    Parameters
    ----------
    families
        The process's metric families.
    pipeline
        Value of the label.
    """

    def __init__(self, families: DriftFamilies, pipeline: str) -> None:
        self.families = families
        self.pipeline = pipeline
        self.episode = families.episode.labels(pipeline)
        self.requests = families.requests.labels(pipeline)
        self.observations = families.observations.labels(pipeline)
        self.predictions_waiting = families.waiting.labels(pipeline, "predictions")
        self.labels_waiting = families.waiting.labels(pipeline, "labels")
        self.snapshot_bytes = families.snapshot_bytes.labels(pipeline)
        self.snapshot_time = families.snapshot_time.labels(pipeline)
        self.restored = families.restored.labels(pipeline)
        self.ignored = families.ignored.labels(pipeline)
        self.reports_made = families.reports.labels(pipeline, "made")
        self.reports_failed = families.reports.labels(pipeline, "failed")

    def subject(self, name: str, score: float, threshold: float) -> None:
        """Show where a subject stands."""
        self.families.score.labels(self.pipeline, name).set(score)
        self.families.threshold.labels(self.pipeline, name).set(threshold)
