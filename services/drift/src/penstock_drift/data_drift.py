"""Data and prediction drift: windows of the stream compared with the training reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from penstock_monitoring.observations import Floats, Ints, Matrix
from penstock_monitoring.psi import Counts, psi
from penstock_monitoring.reference import SCORE, Histogram, Reference
from penstock_pipelines.model import Monitor


@dataclass(slots=True)
class SubjectState:
    """How one column compares.

    Parameters
    ----------
    value
        Index of the last whole window; NaN before the first.
    over
        Windows in a row that reached the threshold.
    since
        Event time of the first row of the first of them, milliseconds.
    """

    value: float = float("nan")
    over: int = 0
    since: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """Rows compared together; offsets inclusive, event times in milliseconds."""

    first_offset: int
    last_offset: int
    rows: int
    first_time: int
    last_time: int


@dataclass(frozen=True, slots=True)
class PsiFinding:
    """A column whose standing has changed with a window.

    Parameters
    ----------
    verdict
        suspected, detected or recovered.
    since
        Event time from which on it was over the threshold, milliseconds.
    """

    verdict: str
    subject: str
    value: float
    since: int
    window: Window


class PsiMonitor:
    """Population stability index of the champion's rows, window by window.

    Parameters
    ----------
    settings
        The pipeline's.
    reference
        Of the version watched; None compares nothing.
    columns
        Position in the feature matrix of each column to compare, by name.
    """

    def __init__(
        self, settings: Monitor, reference: Reference | None, columns: Mapping[str, int]
    ) -> None:
        self._settings = settings
        known = {h.name: h for h in reference.histograms} if reference else {}
        self._histograms: dict[str, Histogram] = {
            name: known[name] for name in (*columns, SCORE) if name in known
        }
        self._positions = {name: columns[name] for name in self._histograms if name != SCORE}
        self.subjects = {name: SubjectState() for name in self._histograms}
        self._window: Window | None = None
        self._reset()

    def _reset(self) -> None:
        self._counts: dict[str, Counts] = {
            name: np.zeros(len(h.counts), np.int64) for name, h in self._histograms.items()
        }
        self._rows = 0
        self._first = (0, 0)
        self._last = (0, 0)

    @property
    def is_comparing(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self._histograms)

    @property
    def confirmed(self) -> tuple[str, ...]:
        """Columns that have drifted and not come back."""
        return tuple(n for n, s in self.subjects.items() if s.over >= self._settings.psi_windows)

    @property
    def is_suspected(self) -> bool:
        """Whether a column was over the threshold in the last window."""
        return any(state.over for state in self.subjects.values())

    @property
    def room(self) -> int:
        """Rows that are missing to the end of the open window."""
        return self._settings.window_rows - self._rows

    def add_rows(
        self, offsets: Ints, times: Ints, matrix: Matrix, scores: Floats
    ) -> list[PsiFinding]:
        """Add rows to the open window, at most `room` of them, in the order of the log.

        Parameters
        ----------
        matrix
            Features, shape (n, d).
        scores
            Shape (n,).

        Returns
        -------
        What the window shows, if it is complete now.
        """
        if not len(offsets) or not self.is_comparing:
            return []
        if not self._rows:
            self._first = (int(offsets[0]), int(times[0]))
        self._last = (int(offsets[-1]), int(times[-1]))
        self._rows += len(offsets)
        for name, counts in self._counts.items():
            column = scores if name == SCORE else matrix[:, self._positions[name]]
            counts += self._histograms[name].count(column)
        return self._close() if self._rows >= self._settings.window_rows else []

    def _close(self) -> list[PsiFinding]:
        (first_offset, first_time), (last_offset, last_time) = self._first, self._last
        window = Window(first_offset, last_offset, self._rows, first_time, last_time)
        found = [self._compare(name, state, window) for name, state in self.subjects.items()]
        self._window = window
        self._reset()
        return [finding for finding in found if finding is not None]

    def _compare(self, name: str, state: SubjectState, window: Window) -> PsiFinding | None:
        needed = self._settings.psi_windows
        expected = np.array(self._histograms[name].counts, np.int64)
        state.value = psi(expected, self._counts[name])
        was_confirmed = state.over >= needed
        if state.value < self._settings.psi_threshold:
            state.over = 0
            verdict = "recovered" if was_confirmed else ""
        else:
            state.over += 1
            state.since = window.first_time if state.over == 1 else state.since
            verdict = {1: "suspected", needed: "detected"}.get(state.over, "")
        return PsiFinding(verdict, name, state.value, state.since, window) if verdict else None

    def lasting(self) -> list[PsiFinding]:
        """Return the standing of the confirmed columns as of the last window."""
        window = self._window
        if window is None:
            return []
        states = [(name, self.subjects[name]) for name in self.confirmed]
        return [PsiFinding("detected", name, s.value, s.since, window) for name, s in states]

    def state(self) -> dict[str, Any]:
        """Return all of the state as plain values."""
        return {
            "window": self._window and asdict(self._window),
            "rows": self._rows,
            "first": list(self._first),
            "last": list(self._last),
            "counts": {name: counts.tolist() for name, counts in self._counts.items()},
            "subjects": {name: asdict(state) for name, state in self.subjects.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what it was when `state` was called, with the same reference."""
        self._window = Window(**state["window"]) if state["window"] else None
        self._rows = int(state["rows"])
        self._first = _pair(state["first"])
        self._last = _pair(state["last"])
        for name in self._histograms:
            self._counts[name] = np.array(state["counts"][name], np.int64)
            self.subjects[name] = SubjectState(**state["subjects"][name])


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)
