"""One demonstration on a stack that runs: events in, the loop observed, the figures out.

`EventSource` is the producer application, a thread of its own; `Observer` reads the topics as any
foreign consumer may and tracks which stage the loop has reached.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from penstock_monitoring.quality import auc
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_schemas.errors import BrokerUnavailable, FatalError, PenstockError
from penstock_simulator.foreign_producer import Connection
from penstock_simulator.generators import Drift, DriftKind, SimulatedBatch
from penstock_simulator.simulation import (
    Progress,
    SimulationPlan,
    SimulationReport,
    Watch,
    simulate,
)
from penstock_stack.component import StackConfig
from penstock_stack.registry_server import API_PATH
from penstock_streaming.settings import KafkaSettings

from penstock_cli.demonstration.feed import Feed
from penstock_cli.demonstration.joined_rows import JoinedRows, Rows
from penstock_cli.demonstration.quality import (
    Promotion,
    curve,
    now,
    phases,
    promotion,
)
from penstock_cli.demonstration.stages import (
    CONTROL,
    LOOP,
    Expectation,
    RunProgress,
    Stage,
    StageMissed,
    StageTracker,
)
from penstock_cli.demonstration.summary import Ledger, draw, ledger, summarise
from penstock_cli.demonstration.view import Snapshot, View
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
POLL_S: Final = 0.2
SHOW_EVERY_S: Final = 0.5
DRAINED_WITHIN_S: Final = 60.0
STOP_WITHIN_S: Final = 90.0

Publish = Callable[[Progress, Watch, threading.Event], SimulationReport]
"""Publishes events until it is stopped; calls back with each batch before it, and with counts."""


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
        "pipeline": pipeline.config.pipeline,
        **asdict(plan),
        "failed_stage": missed.stage.value if isinstance(missed, StageMissed) else None,
        **summarise(tracker, observer.rows, plan.drift_at, began_s, _last(observer, plan)),
        "last_phase": "after promotion" if plan.retrains else "at the end",
        "ledger": asdict(counts),
        "links": _links(config, pipeline.config.pipeline, observer, plan),
    }
    return Outcome(facts, missed, counts)


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
    """Return a function that returns the drift scores, read every few seconds, in words."""
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
    split = phases(rows, plan.drift_at, facts.first_version, facts.new_version)
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


class Observer:
    """One run, observed.

    Parameters
    ----------
    drift_at
        First event after the planted point.
    scores
        Returns the drift scores in words.
    models
        Root of the published models.
    """

    def __init__(
        self,
        source: EventSource,
        feed: Feed,
        tracker: StageTracker,
        drift_at: int,
        scores: Callable[[], list[str]],
        models: Path,
    ) -> None:
        self._source = source
        self._feed = feed
        self._drift_at = drift_at
        self._scores = scores
        self._models = models
        self._began_s = time.monotonic()
        self._next_show_s = 0.0
        self.tracker = tracker
        self.rows = JoinedRows()
        self.dead_letters = 0
        self.first_model = b""

    def follow(self, view: View) -> None:
        """Observe until every stage is reached.

        Raises
        ------
        StageMissed
            If one is not in time.
        """
        noted = 0
        while self.tracker.current is not None:
            self.process_poll()
            for stage, at_s in list(self.tracker.reached.items())[noted:]:
                view.note(f"{stage.value} after {at_s - self._began_s:,.0f} s")
                noted += 1
            self.tracker.check(time.monotonic())
            self._source.check()
            if time.monotonic() >= self._next_show_s:
                view.show(self._snapshot())
                self._next_show_s = time.monotonic() + SHOW_EVERY_S

    def drain(self, events: int, labels: int) -> None:
        """Read on until all events and labels sent have been seen, or for a minute."""
        deadline_s = time.monotonic() + DRAINED_WITHIN_S
        while time.monotonic() < deadline_s:
            self.process_poll(strict=False)
            rows = self.rows
            if rows.predicted + self.dead_letters >= events and int(rows.joined.sum()) >= labels:
                return

    def process_poll(self, *, strict: bool = True) -> None:
        """Process the records of one poll.

        Raises
        ------
        StageMissed
            If they show that a stage will not come; never where not strict.
        """
        polled = self._feed.poll(POLL_S)
        # A batch is handed out before it is sent: the truth of whatever was read is here by now.
        for batch in self._source.truth():
            self.rows.add_truth(batch.event_ids, batch.oracle)
        if polled.predictions is not None:
            self.rows.add_predictions(polled.predictions)
        if polled.labels is not None:
            self.rows.add_labels(polled.labels)
        self.dead_letters += polled.dead_letters
        if not strict:
            return
        now_s = time.monotonic()
        tracker = self.tracker
        tracker.progress(self._progress(), now_s)
        for state in polled.routing:
            tracker.routing(state, now_s)
            self._keep_first_model()
        for alarm in polled.drift:
            tracker.drift(alarm, now_s)
        for step in polled.retrain:
            tracker.retrain(step, now_s)

    def _progress(self) -> RunProgress:
        rows = self.rows
        new = self.tracker.facts.new_version
        promoted = 0
        if new is not None:
            promoted = int(phases(rows, self._drift_at, "", new).promoted.sum())
        drifted = int(rows.joined[self._drift_at :].sum())
        return RunProgress(self._source.sent, rows.predicted, drifted, promoted)

    def _keep_first_model(self) -> None:
        """Keep the first champion's file: it may be removed when another has taken over."""
        first = self.tracker.facts.first
        if self.first_model or first is None or first.champion is None:
            return
        path = self._models / first.champion.served_as / "1" / "model.onnx"
        if path.is_file():
            self.first_model = path.read_bytes()

    def _snapshot(self) -> Snapshot:
        rows, facts = self.rows, self.tracker.facts
        quality = now(rows)
        step = list(facts.steps.values())[-1] if facts.steps else None
        served = facts.routing.versions if facts.routing is not None else ()
        stage = self.tracker.current
        return Snapshot(
            at_s=time.monotonic() - self._began_s,
            stage=stage.value if stage is not None else "the end",
            events=self._source.sent,
            predictions=rows.predicted,
            labels=int(rows.joined.sum()),
            champion=quality.champion,
            oracle=quality.oracle,
            scores=self._scores(),
            retrain="" if step is None else " ".join(filter(None, (step.state, step.reason))),
            served=" ".join(f"{v.version}:{v.alias}({v.weight}%)" for v in served if v.weight),
        )


class EventSource:
    """Publishes until it is stopped; a context manager.

    Parameters
    ----------
    publish
        Runs in the thread.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._stop = threading.Event()
        self._truth: SimpleQueue[SimulatedBatch] = SimpleQueue()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="events")
        self._done: Future[SimulationReport] | None = None
        self.sent = 0

    def __enter__(self) -> EventSource:
        self._done = self._pool.submit(self._publish, self._count, self._truth.put, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True)

    def truth(self) -> list[SimulatedBatch]:
        """Return the batches handed out since the last call, all sent later than that."""
        found = []
        while True:
            try:
                found.append(self._truth.get_nowait())
            except Empty:
                return found

    def check(self) -> None:
        """Raise if events flow no more.

        Raises
        ------
        FatalError
            If they have come to their end.
        PenstockError
            What ended them.
        """
        if self._done is not None and self._done.done():
            self._done.result()
            raise FatalError("the events have come to their end before the loop has closed")

    def stop(self) -> SimulationReport:
        """Stop, with the labels of all events sent, and return what was published.

        Raises
        ------
        BrokerUnavailable
            If it does not end in time.
        """
        if self._done is None:
            return SimulationReport()
        self._stop.set()
        try:
            return self._done.result(STOP_WITHIN_S)
        except TimeoutError as exc:
            raise BrokerUnavailable(f"events: not stopped within {STOP_WITHIN_S:.0f} s") from exc

    def _count(self, sent: int) -> None:
        self.sent = sent
