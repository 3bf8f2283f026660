"""Concept drift: the champion's losses beyond what its own scores expect, label by label.

`LossJournal` keeps the newest losses, `change_point` estimates when their mean changed, and
`ErrorMonitor` decides: ADWIN raises a suspicion, which the losses after the change confirm or drop.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from penstock_monitoring.observations import Floats, Ints
from penstock_pipelines.model import Monitor
from river.drift.adwin import ADWIN

CAPACITY_ROWS: Final = 30_000
"""Losses kept; the older half goes when there would be more."""
BLOCK_ROWS: Final = 100
"""Losses that share a first offset; divides half of the journal."""
MIN_ROWS: Final = 30
"""Fewest errors on either side of a change."""
ATTEMPTS: Final = 3
"""How often the place of a suspected change is estimated before it is judged."""
LIFT: Final = 0.15
"""Added to what the detector is fed, which it wants to be positive."""
RECOVERY: Final = 10
"""Times the evidence that a change needs is what its end needs: a day, not some quiet hours."""

Verdict = Literal["suspected", "detected", "recovered"]


@dataclass(frozen=True, slots=True)
class Loss:
    """One label's loss.

    Parameters
    ----------
    loss
        Bounded log loss, in [0, 1].
    expected
        What the score itself expects, above 0.
    time
        Event time, milliseconds.
    offset
        Of the prediction.
    """

    loss: float
    expected: float
    time: int
    offset: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """The losses of events from some time on.

    Parameters
    ----------
    ratio, before
        Sum of losses over what was expected, from that time on and before; NaN without any.
    first_offset
        Of the first prediction among them, or a little before.
    """

    ratio: float
    before: float
    rows: int
    first_offset: int


class LossJournal:
    """Losses in the order in which they became known; float32, as they are kept."""

    def __init__(self) -> None:
        self._losses = array("f")
        self._expected = array("f")
        self._times = array("q")
        self.blocks: list[int] = []

    def __len__(self) -> int:
        return len(self._losses)

    @property
    def is_full(self) -> bool:
        """Whether the older half has to go first."""
        return len(self._losses) >= CAPACITY_ROWS

    def append_loss(self, entry: Loss) -> tuple[float, float]:
        """Append a loss; return loss and expectation as they are kept (float32)."""
        if len(self._losses) % BLOCK_ROWS == 0:
            self.blocks.append(entry.offset)
        elif entry.offset < self.blocks[-1]:
            self.blocks[-1] = entry.offset
        self._losses.append(entry.loss)
        self._expected.append(entry.expected)
        self._times.append(entry.time)
        return self._losses[-1], self._expected[-1]

    def halve(self) -> int:
        """Drop the older half; return how many that were."""
        half = CAPACITY_ROWS // 2
        del self._losses[:half], self._expected[:half], self._times[:half]
        del self.blocks[: half // BLOCK_ROWS]
        return half

    def excess(self, start: int = 0) -> Floats:
        """Return loss less expectation from the ``start``-th kept on."""
        # Copies: an array that lends its memory cannot grow.
        losses = np.array(self._losses[start:], np.float64)
        return losses - np.array(self._expected[start:], np.float64)

    def times(self) -> Ints:
        """Return the event times."""
        return np.array(self._times, np.int64)

    def ratio(self, rows: int) -> float:
        """Return losses over expectations of the newest rows; NaN without any."""
        start = max(0, len(self) - rows)
        return _ratio(np.array(self._losses[start:]), np.array(self._expected[start:]))

    def since(self, time: int) -> Evidence:
        """Return the losses of events from ``time`` on, milliseconds, against those before."""
        losses, expected = np.array(self._losses), np.array(self._expected)
        is_after = self.times() >= time
        blocks = np.unique(np.flatnonzero(is_after) // BLOCK_ROWS).tolist()
        return Evidence(
            _ratio(losses[is_after], expected[is_after]),
            _ratio(losses[~is_after], expected[~is_after]),
            int(is_after.sum()),
            min((self.blocks[block] for block in blocks), default=0),
        )

    def to_bytes(self) -> tuple[bytes, bytes, bytes]:
        """Return losses, expectations (float32) and event times (int64), little endian."""
        return (
            np.array(self._losses, "<f4").tobytes(),
            np.array(self._expected, "<f4").tobytes(),
            np.array(self._times, "<i8").tobytes(),
        )

    @classmethod
    def from_bytes(
        cls, losses: bytes, expected: bytes, times: bytes, blocks: Sequence[int]
    ) -> LossJournal:
        """Return a journal as it was when `to_bytes` was called."""
        made = cls()
        made._losses.extend(np.frombuffer(losses, "<f4").tolist())
        made._expected.extend(np.frombuffer(expected, "<f4").tolist())
        made._times.extend(np.frombuffer(times, "<i8").tolist())
        made.blocks = list(blocks)
        return made


def _ratio(losses: Floats, expected: Floats) -> float:
    total = float(expected.sum(dtype=np.float64))
    return float(losses.sum(dtype=np.float64)) / total if total > 0.0 else float("nan")


@dataclass(frozen=True, slots=True)
class ChangePoint:
    """A step in the mean.

    Parameters
    ----------
    time
        Event time from which on the mean is another one, milliseconds.
    before, after
        The two means.
    rows
        Errors from ``time`` on.
    """

    time: int
    before: float
    after: float
    rows: int


def change_point(errors: Floats, times: Ints) -> ChangePoint | None:
    """Return where the mean of the errors changes most, in the order of event time.

    Labels come in another order than events: by event time the change is a step, by the time of
    the labels a slope.

    Parameters
    ----------
    errors, times
        In any order, shape (n,).

    Returns
    -------
    None with fewer than `MIN_ROWS` errors on either side.

    References
    ----------
    Page, E. S.: Continuous Inspection Schemes, 1954; the statistic is the likelihood ratio of one
    step in the mean at an unknown place, Hawkins 1977, eq. 2.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> errors = np.concatenate([rng.random(500), 0.3 + rng.random(300)])
    >>> found = change_point(errors, np.arange(800))
    >>> abs(found.time - 500) < 20, found.after > found.before
    (True, True)
    """
    n = len(errors)
    if n < 2 * MIN_ROWS:
        return None
    order = np.argsort(times, kind="stable")
    ordered, moments = errors[order], times[order]
    sums = np.cumsum(ordered)
    first = np.arange(1, n)
    before = sums[:-1] / first
    after = (sums[-1] - sums[:-1]) / (n - first)
    strength = np.sqrt(first * (n - first) / n) * np.abs(after - before)
    at = int(np.argmax(strength[MIN_ROWS - 1 : n - MIN_ROWS])) + MIN_ROWS
    time = int(moments[at])
    # Events of the same millisecond belong together.
    at = int(np.searchsorted(moments, time, side="left"))
    if at == 0:
        return None
    return ChangePoint(time, float(sums[at - 1] / at), float(np.mean(ordered[at:])), n - at)


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
        """Add one loss; return what it has led to, if anything."""
        if self._journal.is_full:
            self._begun = max(0, self._begun - self._journal.halve())
            self._feed()
        loss, expected = self._journal.append_loss(entry)
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
        """Feed the journal to a new detector; what it finds in there is known already."""
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
