"""Concept drift: the error of the champion's predictions, watched label by label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from penstock_pipelines.lifecycle import Monitor
from river.drift.adwin import ADWIN

from penstock_drift.change_point import change_point
from penstock_drift.journal import ErrorJournal

ATTEMPTS: Final = 3
"""How often the place of a suspected change is estimated before it is judged."""

Verdict = Literal["suspected", "detected", "recovered"]


@dataclass(slots=True)
class Suspicion:
    """A change that is not confirmed, or one that is and lasts.

    Parameters
    ----------
    since
        Event time of the change, milliseconds.
    baseline
        Mean error before.
    rows
        Errors of events since then.
    attempts
        Estimates so far.
    """

    since: int
    baseline: float
    rows: int
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class ErrorFinding:
    """What an error has led to.

    Parameters
    ----------
    mean, baseline
        Mean error after and before the change.
    since
        Event time of the change, milliseconds.
    rows
        Errors after it.
    first_offset
        Of the first prediction among them, or a little before.
    """

    verdict: Verdict
    mean: float
    baseline: float
    since: int
    rows: int
    first_offset: int


class ErrorMonitor:
    """ADWIN on the error, a journal of what it was fed, and a judgement of what it finds.

    The journal makes the state: a monitor is restored by feeding it again.

    Parameters
    ----------
    settings
        The pipeline's.
    """

    def __init__(self, settings: Monitor) -> None:
        self._settings = settings
        self._clear()

    def _clear(self) -> None:
        self._journal = ErrorJournal()
        self._begun = 0
        self._adwin = ADWIN(delta=self._settings.adwin_delta)
        self._suspicion: Suspicion | None = None
        self._is_confirmed = False
        self._recent: list[float] = []

    @property
    def is_suspected(self) -> bool:
        """Whether the error seems to have gone up, confirmed or not."""
        return self._suspicion is not None

    @property
    def is_confirmed(self) -> bool:
        """Whether the error has gone up and not come down again."""
        return self._is_confirmed

    @property
    def level(self) -> float:
        """Mean error in the detector's window; NaN where it is empty."""
        return float(self._adwin.estimation) if self._adwin.width else float("nan")

    @property
    def threshold(self) -> float:
        """Mean error that confirms what is suspected; NaN while nothing is."""
        if self._suspicion is None:
            return float("nan")
        return self._suspicion.baseline * self._settings.degradation

    def update(self, error: float, time: int, offset: int) -> ErrorFinding | None:
        """Take one error in.

        Parameters
        ----------
        error
            In [0, 1].
        time
            Event time, milliseconds.
        offset
            Of the prediction.
        """
        if self._journal.is_full:
            self._begun = max(0, self._begun - self._journal.halve())
            self._feed()
        error = self._journal.add(error, time, offset)
        self._adwin.update(error)
        has_fired = bool(self._adwin.drift_detected)
        if has_fired:
            self._begun = len(self._journal)
        if self._is_confirmed and self._suspicion is not None:
            return self._follow(self._suspicion, error, time)
        if self._suspicion is not None:
            return self._judge(self._suspicion, time)
        return self._suspect() if has_fired else None

    def lasting(self) -> ErrorFinding:
        """Return the evidence of a confirmed change as it is now."""
        if self._suspicion is None:
            raise ValueError("no change is confirmed")
        return self._finding("detected", self._suspicion)

    def _feed(self) -> None:
        """Begin the detector with the journal; what it finds in there is known already."""
        self._adwin = ADWIN(delta=self._settings.adwin_delta)
        start = self._begun
        for at, error in enumerate(self._journal.newest(start), start + 1):
            self._adwin.update(error)
            if self._adwin.drift_detected:
                self._begun = at

    def _suspect(self) -> ErrorFinding | None:
        found = change_point(*self._journal.columns())
        if found is None or found.after <= found.before:
            return None
        self._suspicion = Suspicion(found.time, found.before, found.rows)
        return self._finding("suspected", self._suspicion)

    def _judge(self, suspicion: Suspicion, time: int) -> ErrorFinding | None:
        """Confirm or drop a suspicion once there are errors enough after the change."""
        suspicion.rows += time >= suspicion.since
        if suspicion.rows < self._settings.evidence_labels:
            return None
        found = change_point(*self._journal.columns())
        if found is None or found.after <= found.before:
            self._suspicion = None
            return None
        is_enough = found.rows >= self._settings.evidence_labels
        if is_enough or suspicion.attempts < ATTEMPTS:
            suspicion.since, suspicion.baseline = found.time, found.before
            suspicion.rows = found.rows
            suspicion.attempts += 1
            if not is_enough:
                return None
        finding = self._finding("detected", suspicion)
        if finding.mean < self._settings.degradation * finding.baseline:
            self._suspicion = None
            return None
        self._is_confirmed = True
        return finding

    def _follow(self, suspicion: Suspicion, error: float, time: int) -> ErrorFinding | None:
        """Watch whether the error of a confirmed change has come down again."""
        if time < suspicion.since:
            return None  # from before the change: another partition is read later
        self._recent.append(error)
        if len(self._recent) < self._settings.evidence_labels:
            return None
        mean = float(np.mean(self._recent))
        self._recent.clear()
        if mean >= suspicion.baseline * self._settings.degradation:
            return None
        # What follows is to be compared with the recovered error, not with the bad time before.
        self._clear()
        return ErrorFinding("recovered", mean, suspicion.baseline, time, 0, 0)

    def _finding(self, verdict: Verdict, suspicion: Suspicion) -> ErrorFinding:
        evidence = self._journal.since(suspicion.since)
        return ErrorFinding(
            verdict,
            evidence.mean,
            suspicion.baseline,
            suspicion.since,
            evidence.rows,
            evidence.first_offset,
        )

    def journal_bytes(self) -> tuple[bytes, bytes]:
        """Return errors (float32) and event times (int64), little endian."""
        return self._journal.to_bytes()

    def state(self) -> dict[str, Any]:
        """Return what is not in the journal's bytes, as plain values."""
        return {
            "begun": self._begun,
            "blocks": self._journal.blocks,
            "suspicion": self._suspicion and asdict(self._suspicion),
            "is_confirmed": self._is_confirmed,
            "recent": self._recent,
        }

    @classmethod
    def restored(
        cls, settings: Monitor, state: Mapping[str, Any], errors: bytes, times: bytes
    ) -> ErrorMonitor:
        """Return a monitor as it was when `state` and `journal_bytes` were called."""
        made = cls(settings)
        made._journal = ErrorJournal.from_bytes(errors, times, state["blocks"])
        made._begun = int(state["begun"])
        made._suspicion = Suspicion(**state["suspicion"]) if state["suspicion"] else None
        made._is_confirmed = bool(state["is_confirmed"])
        made._recent = [float(error) for error in state["recent"]]
        made._feed()
        return made
