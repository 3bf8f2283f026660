"""What the trigger counts; the registry is passed in.

The counters of events are those of the whole topic, which is folded at each start: a restart takes
nothing away and counts nothing twice.
"""

from __future__ import annotations

import time
from typing import Final

from penstock_schemas.records import RetrainEvent
from penstock_schemas.retrain_requests import SUPPRESSED, Ledger
from prometheus_client import CollectorRegistry, Counter, Gauge

from penstock_retrain_trigger.policy import last_accepted_ms

NEVER: Final = float("nan")


class TriggerMetrics:
    """Metrics of one pipeline.

    Parameters
    ----------
    families
        The process's metric families.
    pipeline
        Value of the label.
    """

    def __init__(self, families: TriggerFamilies, pipeline: str) -> None:
        self._families = families
        self._pipeline = pipeline
        self.unreadable = families.unreadable.labels(pipeline)

    def observe_ledger(self, ledger: Ledger) -> None:
        """Read the gauges from a ledger at each scrape."""
        in_flight = self._families.in_flight.labels(self._pipeline)
        in_flight.set_function(lambda: float(len(ledger.in_flight())))
        since = self._families.since_accepted.labels(self._pipeline)
        since.set_function(lambda: _seconds_since(last_accepted_ms(ledger)))

    def count_event(self, event: RetrainEvent) -> None:
        """Count an event that is new."""
        rule = event.reason.partition(":")[0] if event.state == SUPPRESSED else ""
        self._families.requests.labels(self._pipeline, event.state, rule).inc()

    def count_submission(self, outcome: str) -> None:
        """Count a submission to Ray: new, known or unavailable."""
        self._families.submissions.labels(self._pipeline, outcome).inc()


class TriggerFamilies:
    """The metric families, once per process.

    Parameters
    ----------
    registry
        Where they are exposed.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        label = ["pipeline"]
        self.requests = Counter(
            "penstock_retrain_requests_total",
            "Retrain events in the topic by state; of suppressed ones the class of the reason.",
            [*label, "state", "reason"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "penstock_retrain_in_flight",
            "Accepted requests that have not ended.",
            label,
            registry=registry,
        )
        self.since_accepted = Gauge(
            "penstock_retrain_since_accepted_seconds",
            "Time since a request was last accepted; NaN if none was.",
            label,
            registry=registry,
        )
        self.submissions = Counter(
            "penstock_retrain_job_submissions_total",
            "Submissions to Ray by outcome: new, known (already there), unavailable.",
            [*label, "outcome"],
            registry=registry,
        )
        self.unreadable = Counter(
            "penstock_retrain_unreadable_total",
            "Records of the retrain topic that were passed over because they cannot be read.",
            label,
            registry=registry,
        )


def _seconds_since(at_ms: int | None) -> float:
    if at_ms is None:
        return NEVER
    return max(0.0, time.time_ns() / 1e9 - at_ms / 1e3)
