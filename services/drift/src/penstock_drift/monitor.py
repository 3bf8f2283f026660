"""The pure core: observations in the order of the log become drift events and requests.

No clock, no chance, no I/O: the same observations give the same records, however they are cut into
batches, today and in a replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from penstock_monitoring.label_join import Counts, Pairs, StreamJoin
from penstock_monitoring.losses import bounded_log_loss, expected_log_loss
from penstock_monitoring.observations import Floats, Ints, Observations
from penstock_monitoring.reference import Reference
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.records import DriftEvent, RetrainEvent

from penstock_drift.champion import ChampionTracker
from penstock_drift.concept_drift import ErrorFinding, ErrorMonitor, Loss
from penstock_drift.data_drift import PsiFinding, PsiMonitor
from penstock_drift.episodes import Episode, Episodes, Moment, Watched

ReferenceOf = Callable[[str, str], Reference | None]


@dataclass(slots=True)
class Outcome:
    """What a batch has led to.

    Parameters
    ----------
    counts
        Of the label join.
    pairs
        Joined by it, of every version and variant.
    losses, expected
        Bounded loss of each pair and what its score expects, shape (n,).
    """

    pairs: Pairs
    counts: Counts
    losses: Floats
    expected: Floats
    events: list[DriftEvent] = field(default_factory=list)
    requests: list[RetrainEvent] = field(default_factory=list)


class DriftMonitor:
    """Label join, detectors and episodes of one pipeline.

    Parameters
    ----------
    config
        The pipeline.
    reference_of
        Training reference by model name and version; must know those in the batch.
    """

    def __init__(self, config: PipelineConfig, reference_of: ReferenceOf) -> None:
        names = config.feature_names
        self._settings = config.monitor
        self._columns = {name: names.index(name) for name in config.monitored_features}
        self._width = len(names)
        self._reference_of = reference_of
        self._join = StreamJoin(config.labels.max_waiting, config.labels.horizon_s * 1000.0)
        self.watched: Watched | None = None
        self._champion = ChampionTracker()
        self.error = ErrorMonitor(config.monitor)
        self.psi = PsiMonitor(config.monitor, None, self._columns)
        self.episodes = Episodes(config)

    @property
    def waiting(self) -> tuple[int, int]:
        """Predictions and labels in the label join."""
        return self._join.waiting

    def rebuild(self, batch: Observations) -> Outcome:
        """Process a batch in the label join only; the detectors do not see it."""
        pairs, counts = self._join.join(batch)
        losses = bounded_log_loss(pairs.labels, pairs.scores)
        return Outcome(pairs, counts, losses, expected_log_loss(pairs.scores))

    def process(self, batch: Observations) -> Outcome:
        """Process a batch: join, detectors, episodes; return what it has led to."""
        outcome = self.rebuild(batch)
        champion = np.array([name[2] == "champion" for name in batch.names], np.bool_)
        rows = np.flatnonzero(champion[batch.who]) if len(batch) else np.empty(0, np.int64)
        start = 0
        for row, name in self._champion.switches(batch, rows):
            self._segment(batch, rows, outcome, start, row)
            self._watch(*name)
            start = row
        self._segment(batch, rows, outcome, start, len(batch))
        return outcome

    def _watch(self, model_name: str, model_version: str) -> None:
        """Watch another champion: new detectors against its reference, no episode."""
        reference = self._reference_of(model_name, model_version)
        self.watched = Watched(
            model_name, model_version, reference.reference_id if reference else ""
        )
        self.error = ErrorMonitor(self._settings)
        self.psi = PsiMonitor(self._settings, reference, self._columns)
        self.episodes.end()

    def _segment(
        self, batch: Observations, champion: Ints, outcome: Outcome, start: int, end: int
    ) -> None:
        """Process rows ``start`` to ``end``, in which one version is watched."""
        if self.watched is None or start >= end:
            return
        own = (self.watched.model_name, self.watched.model_version, "champion")
        rows, matrix = self._rows_of(batch, champion[(champion >= start) & (champion < end)], own)
        errors = self._errors_of(batch, outcome, own, start, end)
        following = next(errors, None)
        at = 0
        while True:
            chunk = slice(at, at + self.psi.room)
            some = rows[chunk]
            is_whole = len(some) == self.psi.room
            last = int(some[-1]) if is_whole else end - 1
            while following is not None and following[0] <= last:
                self._take_error(outcome, *following[1:])
                following = next(errors, None)
            found = self.psi.add_rows(
                batch.offsets[some], batch.times[some], matrix[chunk], batch.scores[some]
            )
            self._take_window(outcome, batch, last, found)
            if not is_whole:
                return
            at += len(some)

    def _rows_of(
        self, batch: Observations, rows: Ints, own: tuple[str, str, str]
    ) -> tuple[Ints, Any]:
        if not self.psi.is_comparing or own not in batch.names:
            return rows[:0], np.empty((0, self._width), np.float32)
        return batch.matrix(rows[batch.who[rows] == batch.names.index(own)], self._width)

    def _errors_of(
        self,
        batch: Observations,
        outcome: Outcome,
        own: tuple[str, str, str],
        start: int,
        end: int,
    ) -> Iterator[tuple[int, Loss, Moment]]:
        """Yield row, loss and the moment, in the order of the log."""
        pairs = outcome.pairs
        if own not in pairs.names:
            return
        chosen = np.flatnonzero(
            (pairs.who == pairs.names.index(own)) & (pairs.rows >= start) & (pairs.rows < end)
        )
        rows = pairs.rows[chosen]
        columns = (
            rows,
            batch.offsets[rows],
            batch.times[rows],
            outcome.losses[chosen],
            outcome.expected[chosen],
            pairs.times[chosen],
            pairs.offsets[chosen],
        )
        for row, offset, time, *loss in zip(*(c.tolist() for c in columns), strict=True):
            entry = Loss(*loss)
            yield row, entry, Moment(offset, time, entry.time)

    def _take_error(self, outcome: Outcome, entry: Loss, moment: Moment) -> None:
        finding = self.error.update(entry)
        self.episodes.count_label(moment.event_time)
        self._record(outcome, moment, errors=[finding] if finding else [])
        if self.episodes.is_reopening:
            self.episodes.end()
            lasting = [self.error.lasting()] if self.error.is_confirmed else []
            self._record(outcome, moment, errors=lasting, columns=self.psi.lasting())

    def _take_window(
        self, outcome: Outcome, batch: Observations, row: int, found: list[PsiFinding]
    ) -> None:
        time = int(batch.times[row])
        self._record(outcome, Moment(int(batch.offsets[row]), time, time), columns=found)

    def _record(
        self,
        outcome: Outcome,
        moment: Moment,
        errors: Sequence[ErrorFinding] = (),
        columns: Sequence[PsiFinding] = (),
    ) -> None:
        """Record what was found at one observation; end the episode if nothing is left of it."""
        if self.watched is not None:
            events, requests = self.episodes.record_findings(self.watched, moment, errors, columns)
            outcome.events.extend(events)
            outcome.requests.extend(requests)
        self.episodes.end_if_recovered(self.error, self.psi)

    def state(self) -> dict[str, Any]:
        """Return all of the state but label join and journal, as plain values."""
        return {
            "succession": self._champion.state(),
            "episode": asdict(self.episodes.current),
            "error": self.error.state(),
            "psi": self.psi.state(),
        }

    def restore(self, state: Mapping[str, Any], journal: tuple[bytes, bytes, bytes]) -> None:
        """Become what it was when `state` was called; the label join is rebuilt apart."""
        version = self._champion.restore(state["succession"])
        if version is not None:
            self._watch(*version)
        self.episodes.current = Episode(**state["episode"])
        self.error = ErrorMonitor.restored(self._settings, state["error"], journal)
        self.psi.restore(state["psi"])
