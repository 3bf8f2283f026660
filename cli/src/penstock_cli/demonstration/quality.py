"""Figures of a run, computed from its joined rows: AUC by phase and over time, the canary's share.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from penstock_monitoring.confidence_intervals import PairedAuc, paired_bootstrap
from penstock_monitoring.quality import auc

from penstock_cli.demonstration.joined_rows import UNKNOWN, JoinedRows, Rows

WINDOW_ROWS: Final = 5_000
"""Joined rows of one point of the curve, and of the live figure."""
STEP_ROWS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Quality:
    """AUC of the champion and of the oracle on the same rows."""

    champion: float
    oracle: float
    rows: int
    positives: int

    def to_dict(self) -> dict[str, Any]:
        """Return rounded plain values."""
        rounded = {"champion": _rounded(self.champion), "oracle": _rounded(self.oracle)}
        return {**asdict(self), **rounded}


def quality_of(rows: JoinedRows, chosen: Rows) -> Quality:
    """Return the quality on some joined rows."""
    labels, scores, oracle = (rows.floats(n)[chosen] for n in ("label", "score", "oracle"))
    return Quality(
        auc(labels, scores), auc(labels, oracle), len(labels), int(np.count_nonzero(labels > 0.5))
    )


def now(rows: JoinedRows) -> Quality:
    """Return the quality on the newest joined rows of the champion."""
    newest = np.zeros(len(rows), np.bool_)
    newest[np.flatnonzero(rows.by_champion)[-WINDOW_ROWS:]] = True
    return quality_of(rows, newest)


@dataclass(frozen=True, slots=True)
class Phases:
    """Joined rows of the champion by phase.

    Parameters
    ----------
    before
        Before the planted point.
    drifted
        After it, predicted by the first champion.
    promoted
        Predicted by the version that was promoted.
    """

    before: Rows
    drifted: Rows
    promoted: Rows


def phases(rows: JoinedRows, drift_at: int, first: str, new: str | None) -> Phases:
    """Split the champion's joined rows by phase.

    Parameters
    ----------
    first, new
        The first champion's version and the one promoted, if any.
    """
    number = np.arange(len(rows))
    by_champion = rows.by_champion
    version = rows.column("version")
    by_first = by_champion & (version == rows.version(first))
    code = UNKNOWN if new is None else rows.version(new)
    promoted = by_champion & (version == code) & (code != UNKNOWN)
    return Phases(by_first & (number < drift_at), by_first & (number >= drift_at), promoted)


def labels_until(rows: JoinedRows, drift_at: int, at_ms: int) -> int:
    """Return how many labels of events after the planted point were known at a simulated time."""
    known = np.isfinite(rows.floats("label")) & (rows.column("label_at_ms") <= at_ms)
    return int(np.count_nonzero(known[drift_at:]))


@dataclass(frozen=True, slots=True)
class Promotion:
    """Quality after the promotion, with 95 % bootstrap intervals.

    Parameters
    ----------
    both
        The champion's AUC (first) and the oracle's.
    old_champion
        AUC that the first champion would have had on the same rows, if known.
    """

    both: PairedAuc
    old_champion: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return rounded plain values."""
        both, old = self.both, self.old_champion
        intervals = {
            "champion_interval": both.first_interval,
            "oracle_interval": both.second_interval,
            "gap_interval": both.gap_interval,
        }
        return {
            **Quality(both.first, both.second, both.rows, both.positives).to_dict(),
            **{name: [_rounded(value) for value in span] for name, span in intervals.items()},
            "old_champion": None if old is None else _rounded(old),
        }


def promotion(
    rows: JoinedRows, chosen: Rows, old_champion: float | None, seed: int = 0
) -> Promotion:
    """Return the quality on the rows after the promotion."""
    columns = (rows.floats(n)[chosen] for n in ("label", "score", "oracle"))
    return Promotion(paired_bootstrap(*columns, stratified=False, seed=seed), old_champion)


@dataclass(frozen=True, slots=True)
class Point:
    """Quality around one event: of the joined rows of the window that ends there."""

    event: int
    champion: float
    oracle: float


def curve(rows: JoinedRows) -> list[Point]:
    """Return the quality over the run, one point per step."""
    numbers = np.flatnonzero(rows.by_champion)
    labels, scores, oracle = (rows.floats(n)[numbers] for n in ("label", "score", "oracle"))
    points = []
    for end in range(min(WINDOW_ROWS, len(numbers)), len(numbers) + 1, STEP_ROWS):
        part = slice(max(0, end - WINDOW_ROWS), end)
        if end:
            areas = (auc(labels[part], values[part]) for values in (scores, oracle))
            points.append(Point(int(numbers[end - 1]), *areas))
    return points


@dataclass(frozen=True, slots=True)
class CanaryShare:
    """What the canary answered, between its first and its last row of each partition.

    Parameters
    ----------
    keys_with_both
        Keys that met both variants there: 0 if the split is sticky.
    """

    rows: int
    rows_percent: float
    keys: int
    keys_percent: float
    keys_with_both: int


def canary_share(rows: JoinedRows) -> CanaryShare:
    """Return the share of rows and of keys that went to the canary while there was one."""
    canary = rows.column("canary")
    partition, offset, key = (rows.column(n) for n in ("partition", "offset", "key"))
    during = np.zeros(len(rows), np.bool_)
    for number in np.unique(partition[canary]):
        here = partition == number
        places = offset[here & canary]
        during |= here & (offset >= places.min()) & (offset <= places.max())
    all_keys = set(key[during].tolist())
    canary_keys = set(key[during & canary].tolist())
    champion_keys = set(key[during & ~canary].tolist())
    return CanaryShare(
        int((during & canary).sum()),
        _percent(int((during & canary).sum()), int(during.sum())),
        len(canary_keys),
        _percent(len(canary_keys), len(all_keys)),
        len(canary_keys & champion_keys),
    )


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _percent(part: int, whole: int) -> float:
    return round(100.0 * part / whole, 2) if whole else 0.0
