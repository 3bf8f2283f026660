"""The demo's result: the figures as plain values, as a table for people, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from penstock_cli.demonstration.joined_rows import JoinedRows
from penstock_cli.demonstration.quality import (
    Point,
    Promotion,
    canary_share,
    labels_until,
    phases,
    quality_of,
)
from penstock_cli.demonstration.stages import Facts, Stage, StageTracker

_SIZE_INCHES: Final = (10.0, 4.5)
_DPI: Final = 120
_LOWEST: Final = 0.5


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of the events: every one has exactly one outcome, or the demo has failed.

    Parameters
    ----------
    labels
        Interactions sent.
    """

    events: int
    predictions: int
    dead_letters: int
    duplicates: int
    lost: int
    labels: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing is lost and nothing is there twice."""
        return self.lost == 0 and self.duplicates == 0


def ledger(rows: JoinedRows, events: int, dead_letters: int, labels: int) -> Ledger:
    """Return the outcomes counted from outside."""
    lost = events - rows.predicted - dead_letters
    predictions = rows.predicted + rows.duplicates
    return Ledger(events, predictions, dead_letters, rows.duplicates, lost, labels)


def summarise(
    tracker: StageTracker,
    rows: JoinedRows,
    drift_at: int,
    began_s: float,
    after: Promotion | None,
) -> dict[str, Any]:
    """Return stages, AUC by phase, alarm, retraining and canary as plain values.

    Parameters
    ----------
    after
        Quality after the promotion, or, in a control run, at its end.
    """
    facts = tracker.facts
    split = phases(rows, drift_at, facts.first_version, facts.new_version)
    return {
        "stages": _stages(tracker, began_s),
        "auc": {
            "before_drift": quality_of(rows, split.before).to_dict(),
            "after_drift": quality_of(rows, split.drifted).to_dict(),
            "after_promotion": None if after is None else after.to_dict(),
        },
        "alarm": _alarm(facts, tracker.reached, rows, drift_at),
        "retrain": _retrain(facts, tracker.reached),
        "canary": asdict(canary_share(rows)),
    }


def _stages(tracker: StageTracker, began_s: float) -> list[dict[str, Any]]:
    reached = sorted(tracker.reached.items(), key=lambda item: item[1])
    return [{"stage": s.value, "at_s": round(at_s - began_s, 1)} for s, at_s in reached]


def _alarm(
    facts: Facts, reached: Mapping[Stage, float], rows: JoinedRows, drift_at: int
) -> dict[str, Any] | None:
    detected, suspected = facts.detected, facts.suspected
    if detected is None or suspected is None:
        return None
    return {
        "labels": labels_until(rows, drift_at, detected.detected_at),
        "labels_to_suspicion": labels_until(rows, drift_at, suspected.detected_at),
        "seconds": _between(reached, Stage.PLANTED, Stage.DRIFT_FOUND),
        "episode_id": detected.episode_id,
        "events": [
            {
                "kind": event.kind,
                "subject": event.subject,
                "severity": event.severity,
                "statistic": round(event.statistic, 4),
                "threshold": round(event.threshold, 4),
                "baseline": round(event.baseline, 4),
                "rows": event.window.rows,
            }
            for event in facts.drift
            if event.episode_id == detected.episode_id
        ],
    }


def _retrain(facts: Facts, reached: Mapping[Stage, float]) -> dict[str, Any] | None:
    if facts.request is None:
        return None
    started, finished = facts.steps.get("started"), facts.steps.get("finished")
    last = list(facts.steps.values())[-1]
    run_id = (finished.run_id if finished else "") or (started.run_id if started else "")
    return {
        "request_id": facts.request.request_id,
        "requested_because": facts.request.reason,
        "state": last.state,
        "reason": last.reason,
        "verdict": last.verdict or None,
        "run_id": run_id or None,
        "model_version": facts.new_version,
        "metrics": finished.metrics if finished else {},
        "training_seconds": _between(reached, Stage.STARTED, Stage.CANARIED),
        "canary_seconds": _between(reached, Stage.CANARIED, Stage.PROMOTED),
        "alarm_to_promotion_seconds": _between(reached, Stage.DRIFT_FOUND, Stage.PROMOTED),
    }


def _between(reached: Mapping[Stage, float], first: Stage, last: Stage) -> float | None:
    if first not in reached or last not in reached:
        return None
    return round(reached[last] - reached[first], 1)


def table(facts: dict[str, Any]) -> list[dict[str, object]]:
    """Return the summary as rows of figure and value."""
    auc, alarm, retrain = facts["auc"], facts["alarm"] or {}, facts["retrain"] or {}
    canary, counts = facts["canary"], facts["ledger"]
    rows: list[tuple[str, object]] = [
        ("AUC before drift", _quality(auc["before_drift"])),
        ("AUC after drift", _quality(auc["after_drift"])),
        (f"AUC {facts['last_phase']}", _quality(auc["after_promotion"])),
        ("drift found", _alarm_words(alarm)),
        ("retrain", _words(retrain, "state", "verdict", "reason")),
        ("training to canary", _seconds(retrain.get("training_seconds"))),
        ("canary to promotion", _seconds(retrain.get("canary_seconds"))),
        ("alarm to promotion", _seconds(retrain.get("alarm_to_promotion_seconds"))),
        ("version promoted", retrain.get("model_version")),
    ]
    if canary["rows"]:
        share = f"{canary['keys_percent']} % of keys, {canary['rows_percent']} % of rows"
        rows.append(("canary", f"{share}, {canary['rows']:,} rows"))
    rows += [
        (name.replace("_", " "), f"{counts[name]:,}")
        for name in ("events", "predictions", "labels", "dead_letters", "duplicates", "lost")
    ]
    rows += [(name.replace("_", " "), path) for name, path in facts["links"].items()]
    rows.append(("time in all", _seconds(facts["seconds"])))
    return [{"figure": name, "value": value} for name, value in rows]


def _quality(quality: dict[str, Any] | None) -> str | None:
    if quality is None or quality["champion"] is None:
        return None
    words = f"{quality['champion']:.4f}"
    if "champion_interval" in quality:
        low, high = quality["champion_interval"]
        words += f" [{low:.4f}, {high:.4f}]"
    words += f", oracle {quality['oracle']:.4f}"
    if quality.get("old_champion") is not None:
        words += f", old champion {quality['old_champion']:.4f}"
    return f"{words}; {quality['rows']:,} rows"


def _alarm_words(alarm: dict[str, Any]) -> str | None:
    if not alarm:
        return None
    subjects = ", ".join(dict.fromkeys(event["subject"] for event in alarm["events"]))
    return f"{alarm['labels']:,} labels, {alarm['seconds']} s after the planted point ({subjects})"


def _words(facts: dict[str, Any], *names: str) -> str | None:
    return " ".join(str(facts[name]) for name in names if facts.get(name)) or None


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:,.1f} s"


def draw(path: Path, title: str, points: Sequence[Point], marks: dict[str, int]) -> None:
    """Write the picture as PNG.

    Parameters
    ----------
    points
        AUC of the champion and the oracle by event.
    marks
        Event at which something happened, by its name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    events = [p.event for p in points]
    axes.plot(events, [p.oracle for p in points], color="0.6", label="oracle (knows the truth)")
    axes.plot(events, [p.champion for p in points], color="tab:blue", label="champion served")
    colours = ("tab:red", "tab:orange", "tab:purple", "tab:green")
    for (name, event), colour in zip(marks.items(), colours, strict=False):
        axes.axvline(event, color=colour, linestyle="--", linewidth=1.2, label=name)
    axes.set_xlabel("event")
    axes.set_ylabel("AUC of the last 5,000 labelled events")
    axes.set_ylim(min([_LOWEST, *(p.champion for p in points)]) - 0.02, 1.0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=6, fontsize="small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
