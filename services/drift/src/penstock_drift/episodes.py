"""Episodes of drift: where one begins, is confirmed and ends, and the records written of it.

An episode is what belongs to one change of one champion. It begins with the first suspicion; its
first confirmation opens it and asks for one retraining. It ends

- when nothing it rests on holds any more (`Episodes.end_if_recovered`),
- after ``monitor.reopen_labels`` labels since it was opened: what still lasts then begins the next
  one (`Episodes.is_reopening`),
- with another champion (`Episodes.end`).

Pure: the same findings give the same records, ids included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from penstock_monitoring.observations import PARTITION
from penstock_monitoring.reference import SCORE
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.records import DriftEvent, DriftWindow, RetrainEvent

from penstock_drift.concept_drift import ErrorFinding, ErrorMonitor
from penstock_drift.data_drift import PsiFinding, PsiMonitor

ERROR: Final = "error"
"""Subject of concept drift; other subjects are columns."""
_DIGITS: Final = 24


def made_id(prefix: str, *parts: object) -> str:
    """Return an id that the same facts always give; letters, digits and hyphens only.

    Examples
    --------
    >>> made_id("drift", "fraud", "3", 17)
    'drift-d6d7485db988df81230c8d2f'
    """
    digest = sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
    return f"{prefix}-{digest[:_DIGITS]}"


@dataclass(frozen=True, slots=True)
class Moment:
    """The observation that decided.

    Parameters
    ----------
    offset
        Of it.
    time
        By the stream's own clock, milliseconds.
    event_time
        Of the event it is about, milliseconds.
    """

    offset: int
    time: int
    event_time: int


@dataclass(frozen=True, slots=True)
class Watched:
    """The champion that is watched."""

    model_name: str
    model_version: str
    reference_id: str = ""


@dataclass(slots=True)
class Episode:
    """State of the episode there is, if any.

    Parameters
    ----------
    episode_id
        Shared by its events; empty while there is no episode.
    is_open
        Whether it is confirmed, and a retraining was asked for.
    labels
        Joined labels of the champion since it was opened, of events after the change.
    since
        Event time of the change, milliseconds.
    """

    episode_id: str = ""
    is_open: bool = False
    labels: int = 0
    since: int = 0


class Episodes:
    """The episodes of one pipeline, one at a time.

    Parameters
    ----------
    config
        The pipeline.
    """

    def __init__(self, config: PipelineConfig) -> None:
        self._pipeline = config.pipeline
        self._topic = config.topic_names.observations
        self._settings = config.monitor
        self.current = Episode()

    @property
    def is_reopening(self) -> bool:
        """Whether so many labels came since it was opened that what lasts is a new episode."""
        return self.current.labels >= self._settings.reopen_labels

    def count_label(self, event_time: int) -> None:
        """Count a joined label of an event at ``event_time``, milliseconds."""
        current = self.current
        current.labels += current.is_open and event_time >= current.since

    def record_findings(
        self,
        watched: Watched,
        moment: Moment,
        errors: Sequence[ErrorFinding],
        columns: Sequence[PsiFinding],
    ) -> tuple[list[DriftEvent], list[RetrainEvent]]:
        """Return the events of what was found at one observation.

        The first confirmation of an episode opens it: a retrain request comes with it.
        """
        errors = [f for f in errors if f.verdict != "recovered"]
        columns = [f for f in columns if f.verdict != "recovered"]
        if not (errors or columns):
            return [], []
        names = (self._pipeline, watched.model_name, watched.model_version)
        current = self.current
        current.episode_id = current.episode_id or made_id("episode", *names, moment.offset)
        events = [self._error_event(f, watched, moment) for f in errors]
        events += [self._column_event(f, watched, moment) for f in columns]
        changes = [f.since for f in errors if f.verdict == "detected"]
        changes += [f.since for f in columns if f.verdict == "detected"]
        if not changes or current.is_open:
            return events, []
        current.is_open, current.labels, current.since = True, 0, min(changes)
        confirmed = [event for event in events if event.severity == "detected"]
        return events, [self._request(confirmed, current.since)]

    def end_if_recovered(self, concept: ErrorMonitor, data: PsiMonitor) -> None:
        """End the episode if no detector confirms it any more, or suspects what is unconfirmed."""
        if not self.current.episode_id:
            return
        if self.current.is_open:
            lasts = concept.is_confirmed or bool(data.confirmed)
        else:
            lasts = concept.is_suspected or data.is_suspected
        if not lasts:
            self.end()

    def end(self) -> None:
        """End the episode, if there is one: what is found next begins another."""
        self.current = Episode()

    def _error_event(self, found: ErrorFinding, watched: Watched, moment: Moment) -> DriftEvent:
        """Return the event of a change of the error."""
        last = (moment.offset, found.rows, found.since, moment.event_time)
        window = DriftWindow(self._topic, PARTITION, found.first_offset, *last)
        return self._event(
            watched,
            moment,
            window,
            detector="adwin",
            kind="concept",
            subject=ERROR,
            severity=found.verdict,
            statistic=found.ratio,
            threshold=found.baseline * self._settings.degradation,
            baseline=found.baseline,
        )

    def _column_event(self, found: PsiFinding, watched: Watched, moment: Moment) -> DriftEvent:
        """Return the event of a change of a feature or of the score."""
        rows = found.window
        offsets = (rows.first_offset, rows.last_offset)
        times = (rows.first_time, rows.last_time)
        return self._event(
            watched,
            moment,
            DriftWindow(self._topic, PARTITION, *offsets, rows.rows, *times),
            detector="psi",
            kind="prediction" if found.subject == SCORE else "data",
            subject=found.subject,
            severity=found.verdict,
            statistic=found.value,
            threshold=self._settings.psi_threshold,
            baseline=0.0,
        )

    def _event(
        self, watched: Watched, moment: Moment, window: DriftWindow, **facts: Any
    ) -> DriftEvent:
        # Not the window's last offset: what lasts is found again in the same window, by a later
        # observation.
        place = (window.first_offset, moment.offset)
        model = (watched.model_name, watched.model_version)
        found = (facts["detector"], facts["subject"], facts["severity"])
        return DriftEvent(
            event_id=made_id("drift", self._pipeline, *model, *found, *place),
            episode_id=self.current.episode_id,
            pipeline=self._pipeline,
            detected_at=moment.time,
            model_name=watched.model_name,
            model_version=watched.model_version,
            window=window,
            reference_id=watched.reference_id,
            **facts,
        )

    def _request(self, events: Sequence[DriftEvent], since: int) -> RetrainEvent:
        """Return the request that the detected events of a new episode lead to."""
        first = events[0]
        return RetrainEvent.request(
            f"retrain-{first.episode_id.removeprefix('episode-')}",
            self._pipeline,
            first.detected_at,
            "drift",
            actor="drift",
            cause_ids=tuple(event.event_id for event in events),
            reason=_reason(events, since),
            data_since=since,
        )


def _reason(events: Sequence[DriftEvent], since: int) -> str:
    when = datetime.fromtimestamp(since / 1000, tz=UTC).isoformat(timespec="seconds")
    first = events[0]
    model = f"{first.model_name} {first.model_version}"
    if first.subject == ERROR:
        change = (
            f"the error of {model} went from {first.baseline:.2f} to {first.statistic:.2f} times "
            "what its scores expect"
        )
    else:
        names = ", ".join(event.subject for event in events)
        index = max(event.statistic for event in events)
        change = f"{names} differ from what {model} was trained on, stability index {index:.2f}"
    return f"{change}, for events since {when}"
