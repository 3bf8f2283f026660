"""How good each version is, from the newest labels: for people, no decision rests on it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import numpy as np
from penstock_monitoring.label_join import Pairs
from penstock_monitoring.observations import Floats
from penstock_monitoring.quality import auc

from penstock_drift.metrics import DriftMetrics

ROWS: Final = 20_000
"""Newest labels per version."""
VERSIONS: Final = 8
"""Most versions kept; the one without labels for longest goes first."""


class Ring:
    """The newest scores, labels and errors of one version."""

    def __init__(self) -> None:
        self._values = np.empty((ROWS, 3), np.float64)
        self._total = 0

    def add(self, values: Floats) -> None:
        """Take rows in, shape (n, 3)."""
        values = values[-ROWS:]
        at = (self._total + np.arange(len(values))) % ROWS
        self._values[at] = values
        self._total += len(values)

    def copy(self) -> Floats:
        """Return the rows, in no order, shape (n, 3)."""
        return self._values[: min(self._total, ROWS)].copy()


class Quality:
    """Rings of the versions. Thread-safe: a scrape reads what the loop writes.

    Parameters
    ----------
    metrics
        Where the figures go.
    """

    def __init__(self, metrics: DriftMetrics) -> None:
        self._metrics = metrics
        self._rings: dict[tuple[str, str], Ring] = {}
        self._lock = threading.Lock()
        self._is_fresh = True

    def add(self, pairs: Pairs, losses: Floats) -> None:
        """Take joined labels in."""
        values = np.column_stack([pairs.scores, pairs.labels, losses])
        with self._lock:
            for code in np.unique(pairs.who).tolist():
                name, version, _ = pairs.names[code]
                ring = self._rings.pop((name, version), None) or Ring()
                self._rings[name, version] = ring
                ring.add(values[pairs.who == code])
                self._is_fresh = False
            while len(self._rings) > VERSIONS:
                gone = next(iter(self._rings))
                del self._rings[gone]
                self._remove(gone)

    def clear(self) -> None:
        """Forget all: what follows is a repetition."""
        with self._lock:
            self._rings.clear()

    def export(self) -> None:
        """Set the gauges, if there is something new."""
        with self._lock:
            if self._is_fresh:
                return
            self._is_fresh = True
            copies = {version: ring.copy() for version, ring in self._rings.items()}
        families, pipeline = self._metrics.families, self._metrics.pipeline
        for version, rows in copies.items():
            families.auc.labels(pipeline, *version).set(auc(rows[:, 1], rows[:, 0]))
            families.auc_rows.labels(pipeline, *version).set(len(rows))
            families.error.labels(pipeline, *version).set(float(rows[:, 2].mean()))

    def _remove(self, version: tuple[str, str]) -> None:
        families = self._metrics.families
        removals: list[Callable[..., None]] = [
            families.auc.remove,
            families.auc_rows.remove,
            families.error.remove,
        ]
        for remove in removals:
            try:
                remove(self._metrics.pipeline, *version)
            except KeyError:  # it was never shown
                continue
