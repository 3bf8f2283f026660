"""``penstock drift status``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock_cli import console
from penstock_cli.options import (
    DEFAULT_DATA_DIR,
    DataDir,
    ExitCode,
    OutputFormat,
    PipelineName,
    PortOffset,
    global_options,
    pipeline_folder,
    stack_config,
)
from penstock_cli.status import Sample, metrics_page, read_samples

if TYPE_CHECKING:
    from penstock_schemas.records import DriftEvent

app = typer.Typer(help="Drift of a pipeline.", no_args_is_help=True)
ANSWER_WITHIN_S: Final = 3.0
_GAUGES: Final = {
    "penstock_drift_score": "score",
    "penstock_drift_threshold": "threshold",
}
_KINDS: Final = {"error": "concept", "score": "prediction"}
"""Kind of drift that a subject tells of; the others are features: data."""


@app.callback()
def _drift() -> None:
    """Drift of a pipeline."""


@app.command("status")
def status(
    context: typer.Context,
    pipeline: PipelineName,
    last: Annotated[int, typer.Option(min=1, help="Alarms shown, the newest.")] = 10,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Show the scores now against their thresholds, and the last alarms with their evidence."""
    from penstock_cli.lifecycle_log import open_log

    folder = pipeline_folder(pipeline)
    config = stack_config(data_dir, [pipeline], port_offset)
    page = metrics_page(config, "DRIFT", ANSWER_WITHIN_S)
    scores = scores_of(list(read_samples(page or "")), folder.name)
    events = open_log(global_options(context).profile, config, folder).drift_events()
    alarms = [alarm(event, config.reports / folder.name) for event in events[-last:]]
    if global_options(context).output is OutputFormat.json:
        console.result_json({"pipeline": folder.name, "scores": scores, "alarms": alarms})
    else:
        _print(folder.name, scores, alarms)
    if page is None:
        url = config.endpoints.url("DRIFT")
        console.note(f"penstock: drift does not answer on {url}: no scores; see 'penstock status'")
        raise typer.Exit(ExitCode.UNREACHABLE)


def scores_of(samples: list[Sample], pipeline: str) -> list[dict[str, Any]]:
    """Return each score with its threshold, those nearest to theirs first."""
    found: dict[str, dict[str, Any]] = {}
    for name, labels, value in samples:
        subject = labels.get("subject")
        if name not in _GAUGES or labels.get("pipeline") != pipeline or subject is None:
            continue
        kind = _KINDS.get(subject, "data")
        empty = {"kind": kind, "subject": subject, "score": None, "threshold": None}
        row = found.setdefault(subject, empty)
        row[_GAUGES[name]] = value if math.isfinite(value) else None
    return sorted(found.values(), key=_share, reverse=True)


def score_words(row: dict[str, Any]) -> str:
    """Return one of `scores_of` in words, such as ``amount_log 0.05 of 0.2``."""
    words = f"{row['subject']} {row['score']:.3g}"
    return words if row["threshold"] is None else f"{words} of {row['threshold']:.3g}"


def _share(row: dict[str, Any]) -> float:
    score, threshold = row["score"], row["threshold"]
    return score / threshold if score is not None and threshold else -1.0


def alarm(event: DriftEvent, reports: Path) -> dict[str, Any]:
    """Return one drift event with its evidence; the report's path where it has been written."""
    window = event.window
    report = reports / f"{event.episode_id}.html"
    return {
        "event_id": event.event_id,
        "episode_id": event.episode_id,
        "detected_at": console.iso(event.detected_at),
        "severity": event.severity,
        "detector": event.detector,
        "kind": event.kind,
        "subject": event.subject,
        "statistic": event.statistic,
        "threshold": event.threshold,
        "baseline": event.baseline,
        "model_version": event.model_version,
        "window": {
            "topic": window.topic,
            "partition": window.partition,
            "first_offset": window.first_offset,
            "last_offset": window.last_offset,
            "rows": window.rows,
            "first_time": console.iso(window.first_time),
            "last_time": console.iso(window.last_time),
        },
        "reference_id": event.reference_id,
        "report": str(report) if report.is_file() else None,
    }


def _print(pipeline: str, scores: list[dict[str, Any]], alarms: list[dict[str, Any]]) -> None:
    if scores:
        shown = ("kind", "subject", "score", "threshold")
        rows = [{**row, **_rounded(row, ("score", "threshold"))} for row in scores]
        console.result_table(shown, rows)
    if not alarms:
        console.note(f"no alarm for {pipeline} yet")
        return
    console.result("")
    rows = [
        {
            **row,
            **_rounded(row, ("statistic", "threshold", "baseline")),
            "rows": row["window"]["rows"],
            "since": row["window"]["first_time"],
        }
        for row in alarms
    ]
    columns = ("detected_at", "severity", "kind", "subject", "statistic", "threshold", "baseline")
    console.result_table((*columns, "rows", "since"), rows)
    for path in dict.fromkeys(row["report"] for row in alarms if row["report"]):
        console.result(f"report: {path}")


def _rounded(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, str | None]:
    return {n: None if row[n] is None else f"{row[n]:.4g}" for n in names}
