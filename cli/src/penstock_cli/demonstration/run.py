"""One demonstration on a stack that runs: events in, the loop observed, the figures out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from penstock_monitoring.quality import auc
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_registry.client import RegistryClient, RegistrySettings
from penstock_schemas.errors import PenstockError
from penstock_simulator.foreign_producer import Connection
from penstock_simulator.generators import Drift, DriftKind
from penstock_simulator.simulation import SimulationPlan, simulate
from penstock_stack.component import StackConfig
from penstock_stack.registry_server import API_PATH
from penstock_streaming.settings import KafkaSettings

from penstock_cli.demonstration.feed import Feed
from penstock_cli.demonstration.joined_rows import Rows
from penstock_cli.demonstration.observer import Observer
from penstock_cli.demonstration.quality import (
    Promotion,
    curve,
    phases,
    promotion,
)
from penstock_cli.demonstration.source import EventSource, Publish
from penstock_cli.demonstration.stage_tracker import StageTracker
from penstock_cli.demonstration.stages import CONTROL, LOOP, Expectation, Stage, StageMissed
from penstock_cli.demonstration.summary import Ledger, ledger, summarise
from penstock_cli.demonstration.view import View
from penstock_cli.drift import score_words, scores_of
from penstock_cli.status import metrics_page, read_samples

MOST_EVENTS: Final = 500_000
FOUND_WITHIN_LABELS: Final = 30_000
MEASURED_LABELS: Final = 20_000
CONTROL_LABELS: Final = 80_000
"""Labels after the planted point at the end of a run without retraining: about as many as a run
with it has."""
REPORT_WITHIN_S: Final = 20.0
_SCORES_EVERY_S: Final = 2.0
_SCORES_WITHIN_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What to show.

    Parameters
    ----------
    rate
        Events per second.
    retrains
        False for a control run.
    """

    seed: int
    drift: DriftKind
    drift_at: int
    rate: float
    retrains: bool = True

    def expectation(self) -> Expectation:
        """Return what has to happen, and by when."""
        measured = MEASURED_LABELS if self.retrains else CONTROL_LABELS
        limits = {
            Stage.PREDICTED: 60.0,
            Stage.PLANTED: 60.0 + 2 * self.drift_at / self.rate,
            Stage.DRIFT_FOUND: 20.0,
            Stage.ACCEPTED: 60.0,
            Stage.SUPPRESSED: 60.0,
            Stage.STARTED: 120.0,
            Stage.CANARIED: 300.0,
            Stage.PROMOTED: 300.0,
            Stage.MEASURED: 60.0 + 3 * measured / self.rate,
            Stage.CONTROLLED: 60.0 + 3 * measured / self.rate,
        }
        return Expectation(
            LOOP if self.retrains else CONTROL,
            self.drift_at,
            self.drift != "none",
            FOUND_WITHIN_LABELS,
            measured,
            limits,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has shown.

    Parameters
    ----------
    facts
        The figures as plain values.
    missed
        What ended it before its end, if anything did.
    ledger
        What became of the events.
    """

    facts: dict[str, Any]
    missed: PenstockError | None
    ledger: Ledger


def run(config: StackConfig, plan: DemoPlan, view: View) -> Outcome:
    """Run the demonstration on a stack that is ready.

    A stage that is missed, or an error of the run, ends it and is part of the outcome.
    """
    pipeline = load_pipeline(config.pipelines[0])
    registry_url = config.endpoints.url("REGISTRY", API_PATH)
    kafka = KafkaSettings(bootstrap_servers=config.endpoints.address("KAFKA"))
    feed = Feed(
        kafka, RegistryClient(RegistrySettings(url=registry_url)), pipeline.config.topic_names
    )
    connection = Connection(kafka.bootstrap_servers, registry_url)
    began_s = time.monotonic()
    tracker = StageTracker(plan.expectation(), began_s)
    missed: PenstockError | None = None
    try:
        with EventSource(_publisher(pipeline, connection, plan)) as source:
            scores = _scores(config, pipeline.config.pipeline)
            observer = Observer(source, feed, tracker, plan.drift_at, scores, config.models)
            try:
                observer.follow(view)
            except PenstockError as exc:
                missed = exc
            report = source.stop()
            observer.drain(report.events, report.labels)
    finally:
        feed.close()
    counts = ledger(observer.rows, report.events, observer.dead_letters, report.labels)
    facts = {
        **_head(pipeline, plan),
        "failed_stage": missed.stage.value if isinstance(missed, StageMissed) else None,
        **summarise(tracker, observer.rows, plan.drift_at, began_s, _last(observer, plan)),
        "last_phase": "after promotion" if plan.retrains else "at the end",
        "ledger": asdict(counts),
        "links": _links(config, pipeline.config.pipeline, observer, plan),
    }
    return Outcome(facts, missed, counts)


def _head(pipeline: LoadedPipeline, plan: DemoPlan) -> dict[str, Any]:
    return {"pipeline": pipeline.config.pipeline, **asdict(plan)}


def _publisher(pipeline: LoadedPipeline, connection: Connection, plan: DemoPlan) -> Publish:
    simulation = SimulationPlan(
        events=MOST_EVENTS,
        rate=plan.rate,
        seed=plan.seed,
        drift=Drift(plan.drift, plan.drift_at),
    )

    def publish(progress: Any, on_batch: Any, stop: threading.Event) -> Any:
        return simulate(pipeline, connection, simulation, progress, on_batch=on_batch, stop=stop)

    return publish


def _scores(config: StackConfig, pipeline: str) -> Callable[[], list[str]]:
    """Return a function that tells the drift scores, asked for every few seconds."""
    known: list[str] = []
    next_s = 0.0

    def scores() -> list[str]:
        nonlocal known, next_s
        if time.monotonic() >= next_s:
            page = metrics_page(config, "DRIFT", _SCORES_WITHIN_S)
            found = scores_of(list(read_samples(page or "")), pipeline)
            known = [score_words(row) for row in found if row["score"] is not None]
            next_s = time.monotonic() + _SCORES_EVERY_S
        return known

    return scores


def _last(observer: Observer, plan: DemoPlan) -> Promotion | None:
    """Return the quality after the promotion, or at the end of a control run."""
    rows, facts = observer.rows, observer.tracker.facts
    first = facts.first.champion if facts.first is not None else None
    split = phases(rows, plan.drift_at, "" if first is None else first.version, facts.new_version)
    if not plan.retrains:
        chosen = split.drifted.copy()
        chosen[chosen.nonzero()[0][:-MEASURED_LABELS]] = False
        return promotion(rows, chosen, None, plan.seed) if chosen.any() else None
    if not split.promoted.any():
        return None
    return promotion(rows, split.promoted, _old_auc(observer, split.promoted), plan.seed)


def _old_auc(observer: Observer, chosen: Rows) -> float | None:
    """Return the AUC that the first champion would have had on the same rows."""
    numbers, matrix = observer.rows.features_of(chosen)
    if not observer.first_model or not len(numbers):
        return None
    from penstock_training.onnx_export import onnx_scores

    return auc(observer.rows.floats("label")[numbers], onnx_scores(observer.first_model, matrix))


def _links(
    config: StackConfig, pipeline: str, observer: Observer, plan: DemoPlan
) -> dict[str, str | None]:
    facts, reached = observer.tracker.facts, observer.tracker.events_at
    picture = config.data_dir / "demo.png"
    marks = {"drift planted": plan.drift_at} if plan.drift != "none" else {}
    names = {
        "drift found": Stage.DRIFT_FOUND,
        "canary starts": Stage.CANARIED,
        "candidate promoted": Stage.PROMOTED,
    }
    marks |= {name: reached[stage] for name, stage in names.items() if stage in reached}
    from penstock_cli.demonstration.plot import draw

    draw(picture, f"{pipeline}, {plan.drift} drift, seed {plan.seed}", curve(observer.rows), marks)
    report = None
    if facts.detected is not None:
        report = _awaited(config.reports / pipeline / f"{facts.detected.episode_id}.html")
    ids = [step.run_id for step in facts.steps.values() if step.run_id]
    runs = list((config.data_dir / "mlflow" / "artifacts").glob(f"*/{ids[-1]}")) if ids else []
    return {
        "report": report,
        "mlflow_run": str(runs[0]) if runs else None,
        "plot": str(picture),
        "logs": str(config.logs),
    }


def _awaited(path: Path) -> str | None:
    """Return a file's path as soon as it is there; it is written off the hot path."""
    deadline_s = time.monotonic() + REPORT_WITHIN_S
    while not path.is_file():
        if time.monotonic() > deadline_s:
            return None
        time.sleep(0.2)
    return str(path)
