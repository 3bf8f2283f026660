"""Concept drift: the champion's losses beyond what its own scores expect, label by label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from penstock_pipelines.model import Monitor
from river.drift.adwin import ADWIN

from penstock_drift.change_point import change_point
from penstock_drift.journal import Loss, LossJournal

ATTEMPTS: Final = 3
"""How often the place of a suspected change is estimated before it is judged."""
LIFT: Final = 0.15
"""Added to what the detector is fed, which it wants to be positive."""
RECOVERY: Final = 10
"""Times the evidence that a change needs is what its end needs: a day, not some quiet hours."""

Verdict = Literal["suspected", "detected", "recovered"]


@dataclass(slots=True)
class Suspicion:
    """A change that is not confirmed, or one that is and lasts.

    Parameters
    ----------
    since
        Event time of the change, milliseconds.
    baseline
        Losses over expectations before.
    rows
        Losses of events since then.
    attempts
        Estimates so far.
    """

    since: int
    baseline: float
    rows: int
    attempts: int = 1


@dataclass(slots=True)
class Recent:
    """Losses since the end of a confirmed change was last looked for."""

    rows: int = 0
    loss: float = 0.0
    expected: float = 0.0


@dataclass(frozen=True, slots=True)
class ErrorFinding:
    """What a loss has led to.

    Parameters
    ----------
    ratio, baseline
        Losses over expectations after and before the change.
    since
        Event time of the change, milliseconds.
    rows
        Losses after it.
    first_offset
        Of the first prediction among them, or a little before.
    """

    verdict: Verdict
    ratio: float
    baseline: float
    since: int
    rows: int
    first_offset: int


class ErrorMonitor:
    """ADWIN on the excess loss, a journal of what it was fed, and a judgement of what it finds.

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
        self._journal = LossJournal()
        self._begun = 0
        self._adwin = ADWIN(delta=self._settings.adwin_delta)
        self._suspicion: Suspicion | None = None
        self._is_confirmed = False
        self._recent = Recent()

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
        """Losses over expectations in the detector's window; NaN where it is empty."""
        return self._journal.ratio(int(self._adwin.width))

    @property
    def threshold(self) -> float:
        """Level that confirms what is suspected; NaN while nothing is."""
        if self._suspicion is None:
            return float("nan")
        return self._suspicion.baseline * self._settings.degradation

    def update(self, entry: Loss) -> ErrorFinding | None:
        """Take one loss in."""
        if self._journal.is_full:
            self._begun = max(0, self._begun - self._journal.halve())
            self._feed()
        loss, expected = self._journal.add(entry)
        self._adwin.update(loss - expected + LIFT)
        has_fired = bool(self._adwin.drift_detected)
        if has_fired:
            self._begun = len(self._journal)
        if self._suspicion is None:
            return self._suspect() if has_fired else None
        if self._is_confirmed:
            return self._follow(self._suspicion, loss, expected, entry.time)
        return self._judge(self._suspicion, entry.time)

    def lasting(self) -> ErrorFinding:
        """Return the evidence of a confirmed change as it is now."""
        if self._suspicion is None:
            raise ValueError("no change is confirmed")
        return self._finding("detected", self._suspicion)

    def _feed(self) -> None:
        """Begin the detector with the journal; what it finds in there is known already."""
        self._adwin = ADWIN(delta=self._settings.adwin_delta)
        start = self._begun
        for at, excess in enumerate(self._journal.excess(start).tolist(), start + 1):
            self._adwin.update(excess + LIFT)
            if self._adwin.drift_detected:
                self._begun = at

    def _suspect(self) -> ErrorFinding | None:
        found = change_point(self._journal.excess(), self._journal.times())
        if found is None or found.after <= found.before:
            return None
        before = self._journal.since(found.time).before
        self._suspicion = Suspicion(found.time, before, found.rows)
        return self._finding("suspected", self._suspicion)

    def _judge(self, suspicion: Suspicion, time: int) -> ErrorFinding | None:
        """Confirm or drop a suspicion once there are losses enough after the change."""
        suspicion.rows += time >= suspicion.since
        if suspicion.rows < self._settings.evidence_labels:
            return None
        found = change_point(self._journal.excess(), self._journal.times())
        if found is None or found.after <= found.before:
            self._suspicion = None
            return None
        is_enough = found.rows >= self._settings.evidence_labels
        if is_enough or suspicion.attempts < ATTEMPTS:
            suspicion.since, suspicion.rows = found.time, found.rows
            suspicion.baseline = self._journal.since(found.time).before
            suspicion.attempts += 1
            if not is_enough:
                return None
        finding = self._finding("detected", suspicion)
        if finding.ratio < self.threshold:
            self._suspicion = None
            return None
        self._is_confirmed = True
        return finding

    def _follow(
        self, suspicion: Suspicion, loss: float, expected: float, time: int
    ) -> ErrorFinding | None:
        """Watch whether the error of a confirmed change has come down again."""
        if time < suspicion.since:
            return None  # from before the change: another partition is read later
        recent = self._recent
        recent.rows += 1
        recent.loss += loss
        recent.expected += expected
        if recent.rows < RECOVERY * self._settings.evidence_labels:
            return None
        self._recent = Recent()
        ratio = recent.loss / recent.expected
        if ratio >= self.threshold:
            return None
        # What follows is to be compared with the recovered error, not with the bad time before.
        self._clear()
        return ErrorFinding("recovered", ratio, suspicion.baseline, time, 0, 0)

    def _finding(self, verdict: Verdict, suspicion: Suspicion) -> ErrorFinding:
        evidence = self._journal.since(suspicion.since)
        return ErrorFinding(
            verdict,
            evidence.ratio,
            suspicion.baseline,
            suspicion.since,
            evidence.rows,
            evidence.first_offset,
        )

    def journal_bytes(self) -> tuple[bytes, bytes, bytes]:
        """Return losses, expectations (float32) and event times (int64), little endian."""
        return self._journal.to_bytes()

    def state(self) -> dict[str, Any]:
        """Return what is not in the journal's bytes, as plain values."""
        return {
            "begun": self._begun,
            "blocks": self._journal.blocks,
            "suspicion": self._suspicion and asdict(self._suspicion),
            "is_confirmed": self._is_confirmed,
            "recent": asdict(self._recent),
        }

    @classmethod
    def restored(
        cls, settings: Monitor, state: Mapping[str, Any], journal: tuple[bytes, bytes, bytes]
    ) -> ErrorMonitor:
        """Return a monitor as it was when `state` and `journal_bytes` were called."""
        made = cls(settings)
        made._journal = LossJournal.from_bytes(*journal, state["blocks"])
        made._begun = int(state["begun"])
        made._suspicion = Suspicion(**state["suspicion"]) if state["suspicion"] else None
        made._is_confirmed = bool(state["is_confirmed"])
        made._recent = Recent(**state["recent"])
        made._feed()
        return made
