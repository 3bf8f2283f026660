"""Follows a run from outside: takes what the topics tell to the tracker, the rows and the view."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from penstock_cli.demonstration.feed import Feed
from penstock_cli.demonstration.joined_rows import JoinedRows
from penstock_cli.demonstration.quality import now, phases
from penstock_cli.demonstration.source import EventSource
from penstock_cli.demonstration.stage_tracker import Progress, StageTracker
from penstock_cli.demonstration.view import Snapshot, View

POLL_S: Final = 0.2
SHOW_EVERY_S: Final = 0.5
DRAINED_WITHIN_S: Final = 60.0


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
            self.take_in()
            for stage, at_s in list(self.tracker.reached.items())[noted:]:
                view.note(f"{stage.value} after {at_s - self._began_s:,.0f} s")
                noted += 1
            self.tracker.check(time.monotonic())
            self._source.check()
            if time.monotonic() >= self._next_show_s:
                view.show(self._snapshot())
                self._next_show_s = time.monotonic() + SHOW_EVERY_S

    def drain(self, events: int, labels: int) -> None:
        """Take in what is still to come of the events and labels sent, as far as it comes soon."""
        deadline_s = time.monotonic() + DRAINED_WITHIN_S
        while time.monotonic() < deadline_s:
            self.take_in(strict=False)
            rows = self.rows
            if rows.predicted + self.dead_letters >= events and int(rows.joined.sum()) >= labels:
                return

    def take_in(self, *, strict: bool = True) -> None:
        """Take in what one poll brings.

        Raises
        ------
        StageMissed
            If it tells that a stage will not come; never where not strict.
        """
        news = self._feed.poll(POLL_S)
        # Handed out before it was sent: whatever was read, its truth is here by now.
        for batch in self._source.truth():
            self.rows.add_truth(batch.event_ids, batch.oracle)
        if news.predictions is not None:
            self.rows.add_predictions(news.predictions)
        if news.labels is not None:
            self.rows.add_labels(news.labels)
        self.dead_letters += news.dead_letters
        if not strict:
            return
        now_s = time.monotonic()
        tracker = self.tracker
        tracker.progress(self._progress(), now_s)
        for state in news.routing:
            tracker.routing(state, now_s)
            self._keep_first_model()
        for alarm in news.drift:
            tracker.drift(alarm, now_s)
        for step in news.retrain:
            tracker.retrain(step, now_s)

    def _progress(self) -> Progress:
        rows = self.rows
        new = self.tracker.facts.new_version
        promoted = 0
        if new is not None:
            promoted = int(phases(rows, self._drift_at, "", new).promoted.sum())
        drifted = int(rows.joined[self._drift_at :].sum())
        return Progress(self._source.sent, rows.predicted, drifted, promoted)

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
