"""The two gates of a candidate, holdout and canary, and the verdict.

The verdict is kept in the tracking run before anything follows from it: a job that is killed
between verdict and event finds the same verdict again, and never reaches a second one on other
rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from penstock_training_job.judge import Comparison

PROMOTED: Final = "promoted"
REJECTED: Final = "rejected"
CHAMPION_TAG: Final = "penstock.champion"
"""Tag of a run: the version that its model is compared with."""
VERDICT_TAG: Final = "penstock.verdict"
REASON_TAG: Final = "penstock.reason"
METRICS: Final = (
    "training_rows",
    "holdout_auc",
    "champion_holdout_auc",
    "canary_rows",
    "canary_positives",
    "canary_auc",
    "champion_auc",
    "gain_low",
    "gain_high",
)
"""Metrics of a finished event."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a candidate, and why.

    Parameters
    ----------
    metrics
        Those of `METRICS` that are known.
    """

    verdict: str
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_notes(cls, tags: Mapping[str, str], metrics: Mapping[str, float]) -> Verdict | None:
        """Return the verdict in a run's tags and metrics; None if there is none yet."""
        if VERDICT_TAG not in tags:
            return None
        return cls(tags[VERDICT_TAG], tags.get(REASON_TAG, ""), event_metrics(metrics))

    def tags(self) -> dict[str, str]:
        """Return the verdict as tags of the run."""
        return {VERDICT_TAG: self.verdict, REASON_TAG: self.reason}


def offline_objection(found: Comparison, min_gain: float) -> str:
    """Return why a candidate must not reach any traffic, by its holdout; empty if it may."""
    if found.gain_high >= min_gain:
        return ""
    return (
        f"on the {found.rows} held-out rows its AUC is {found.candidate_auc:.4f}, the champion's "
        f"{found.champion_auc:.4f}: the gain is below {min_gain:g} with 95 % confidence "
        f"(at most {found.gain_high:+.4f})"
    )


def canary_objection(found: Comparison, min_gain: float) -> str:
    """Return why a candidate must not take over, by its canary; empty if it shall."""
    if found.gain_low >= min_gain:
        return ""
    return (
        f"on the same {found.rows} canary rows its AUC is {found.candidate_auc:.4f}, the "
        f"champion's {found.champion_auc:.4f}: a gain of {min_gain:g} is not sure with 95 % "
        f"confidence ({found.gain_low:+.4f} to {found.gain_high:+.4f})"
    )


def event_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return those metrics of a run that belong into an event."""
    return {name: metrics[name] for name in METRICS if name in metrics}


def holdout_metrics(found: Comparison, training_rows: int) -> dict[str, float]:
    """Return the metrics of the comparison on the holdout."""
    return {
        "training_rows": float(training_rows),
        "holdout_rows": float(found.rows),
        "holdout_positives": float(found.positives),
        "holdout_auc": found.candidate_auc,
        "champion_holdout_auc": found.champion_auc,
        "gain_low": found.gain_low,
        "gain_high": found.gain_high,
    }


def canary_metrics(found: Comparison) -> dict[str, float]:
    """Return the canary comparison's metrics; its gain replaces the holdout's."""
    return {
        "canary_rows": float(found.rows),
        "canary_positives": float(found.positives),
        "canary_auc": found.candidate_auc,
        "champion_auc": found.champion_auc,
        "gain_low": found.gain_low,
        "gain_high": found.gain_high,
    }
