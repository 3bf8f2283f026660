"""What detectors find, as the records that others read. Pure: same findings, same records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from penstock_pipelines.model import PipelineConfig
from penstock_schemas.records import DriftEvent, DriftWindow, RetrainEvent

from penstock_drift.episodes import made_id
from penstock_drift.error_monitor import ErrorFinding
from penstock_drift.psi_monitor import PsiFinding
from penstock_drift.rekey import PARTITION

SCORE = "score"
ERROR = "error"


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


class Findings:
    """Writes the records of one pipeline.

    Parameters
    ----------
    config
        The pipeline.
    """

    def __init__(self, config: PipelineConfig) -> None:
        self.pipeline = config.pipeline
        self._topic = config.topic_names.observations
        self._monitor = config.monitor

    def of_error(
        self, finding: ErrorFinding, watched: Watched, episode_id: str, moment: Moment
    ) -> DriftEvent:
        """Return the event of a change of the error."""
        window = DriftWindow(
            self._topic,
            PARTITION,
            finding.first_offset,
            moment.offset,
            finding.rows,
            finding.since,
            moment.event_time,
        )
        facts = ("adwin", ERROR, finding.verdict, window.first_offset, window.last_offset)
        return DriftEvent(
            event_id=self._id(watched, *facts),
            episode_id=episode_id,
            pipeline=self.pipeline,
            detected_at=moment.time,
            detector="adwin",
            kind="concept",
            subject=ERROR,
            statistic=finding.ratio,
            threshold=finding.baseline * self._monitor.degradation,
            baseline=finding.baseline,
            model_name=watched.model_name,
            model_version=watched.model_version,
            window=window,
            reference_id=watched.reference_id,
            severity=finding.verdict,
        )

    def of_column(
        self, finding: PsiFinding, watched: Watched, episode_id: str, moment: Moment
    ) -> DriftEvent:
        """Return the event of a change of a feature or of the score."""
        found = finding.window
        window = DriftWindow(
            self._topic,
            PARTITION,
            found.first_offset,
            found.last_offset,
            found.rows,
            found.first_time,
            found.last_time,
        )
        # A change that lasts is found again in the same window, by a later observation.
        facts = ("psi", finding.subject, finding.verdict, found.first_offset, moment.offset)
        return DriftEvent(
            event_id=self._id(watched, *facts),
            episode_id=episode_id,
            pipeline=self.pipeline,
            detected_at=moment.time,
            detector="psi",
            kind="prediction" if finding.subject == SCORE else "data",
            subject=finding.subject,
            statistic=finding.value,
            threshold=self._monitor.psi_threshold,
            baseline=0.0,
            model_name=watched.model_name,
            model_version=watched.model_version,
            window=window,
            reference_id=watched.reference_id,
            severity=finding.verdict,
        )

    def request(self, events: Sequence[DriftEvent], since: int) -> RetrainEvent:
        """Return the request that the detected events of a new episode lead to.

        Parameters
        ----------
        since
            Estimated time of the change, milliseconds.
        """
        first = events[0]
        return RetrainEvent.request(
            f"retrain-{first.episode_id.removeprefix('episode-')}",
            self.pipeline,
            first.detected_at,
            "drift",
            actor="drift",
            cause_ids=tuple(event.event_id for event in events),
            reason=_in_words(events, since),
            data_since=since,
        )

    def _id(self, watched: Watched, *facts: object) -> str:
        return made_id("drift", self.pipeline, watched.model_name, watched.model_version, *facts)


def _in_words(events: Sequence[DriftEvent], since: int) -> str:
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
