"""Labels joined to predictions by event id: of tables read whole, and of a stream as it comes.

`join_labels` joins whole tables: which of several predictions and labels of an event counts is a
parameter. `StreamJoin` follows the observations topic in bounded memory: of several predictions the
last before the label counts, of several labels the first after the prediction, else the last before
it. Where an event has one prediction and one label, in time, both give the same pair.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock_monitoring.observations import Floats, Ints, Observations, Who

Counts = Counter[str]
Keep = Literal["first", "last"]
REBUILT_FROM: Final = 3
"""Reaches that a stream join's store depends on: a prediction that is kept, the early label it may
have met, and the earlier prediction of the same event that this label may have belonged to."""
_JOINED = -1
_LOG_ORDER: Final = ("partition", "offset")
_ROW_ORDER: Final = [("event_time", "ascending"), ("event_id", "ascending")]


def join_labels(
    predictions: pa.Table,
    labels: pa.Table,
    *,
    prediction: Keep = "first",
    label: Keep = "first",
    horizon_ms: float | None = None,
) -> pa.Table | None:
    """Return one row per event that has both, by event time and id; None if there is none.

    Whichever was read first does not matter: the same rows in any order give the same result.

    Parameters
    ----------
    predictions
        Columns partition, offset, event_id, event_time and others, which are kept.
    labels
        Columns partition, offset, event_id, label, occurred_at.
    prediction
        Which counts of several predictions of an event, in the order of its partition.
    label
        Which counts of several labels of an event, in the order in which they became known.
    horizon_ms
        Longest time from event to label, milliseconds: the event of a later one is left out.
    """
    ordered = _ordered(predictions, _LOG_ORDER, prediction).combine_chunks()
    ids = ordered["event_id"].combine_chunks()
    first = np.unique(ids.dictionary_encode().indices.to_numpy(), return_index=True)[1]
    ordered = ordered.take(pa.array(first))
    known = _ordered(labels, ("occurred_at", *_LOG_ORDER), label)
    # The index of the first of equal values.
    where = pc.index_in(ordered["event_id"], value_set=known["event_id"].combine_chunks())
    matched = ordered.append_column("label", known["label"].take(where))
    keep = pc.is_valid(matched["label"])
    if horizon_ms is not None:
        delay = pc.subtract(known["occurred_at"].take(where), ordered["event_time"])
        keep = pc.and_(keep, pc.less_equal(delay, horizon_ms))
    matched = matched.filter(keep)
    return matched.sort_by(_ROW_ORDER).combine_chunks() if matched.num_rows else None


def _ordered(table: pa.Table, columns: tuple[str, ...], keep: Keep) -> pa.Table:
    """Return the rows so that the one to keep of an event comes first."""
    direction = "ascending" if keep == "first" else "descending"
    return table.sort_by([(name, direction) for name in columns])


@dataclass(frozen=True, slots=True)
class Pairs:
    """Predictions that have met their label, in the order of the log; columns of n rows.

    Parameters
    ----------
    rows
        Row in the batch of the record that completed the pair.
    offsets
        Of the prediction.
    times
        Event time, milliseconds.
    who
        Who predicted: index into ``names``.
    """

    rows: Ints
    offsets: Ints
    times: Ints
    scores: Floats
    labels: Floats
    who: Ints
    names: list[Who]

    def __len__(self) -> int:
        return len(self.rows)


class StreamJoin:
    """A bounded store of predictions without label and of labels without prediction.

    A label and a prediction of the same event meet if they lie at most ``reach`` offsets apart in
    the observations topic, whichever comes first. Measured by offsets and not by a clock, the store
    at any offset is a function of the `REBUILT_FROM` reaches before it: it is rebuilt by reading
    them again, exactly, and a producer's wrong clock cannot empty it.

    A later prediction of the same event replaces an earlier one. The first label after a prediction
    counts; further ones are duplicates.

    Parameters
    ----------
    reach
        Furthest distance of a label from its prediction, offsets.
    horizon_ms
        Longest time from event to label, milliseconds; a later label is counted and left aside.
    """

    def __init__(self, reach: int, horizon_ms: float) -> None:
        self._reach = reach
        self._horizon_ms = horizon_ms
        self._waiting: OrderedDict[str, tuple[int, int, float, int]] = OrderedDict()
        self._early: OrderedDict[str, tuple[int, int, float]] = OrderedDict()
        self._names: list[Who] = []
        self._index: dict[Who, int] = {}

    @property
    def waiting(self) -> tuple[int, int]:
        """Predictions kept, joined ones among them, and labels kept."""
        return len(self._waiting), len(self._early)

    def join(self, batch: Observations) -> tuple[Pairs, Counts]:
        """Add a batch to the store.

        Returns
        -------
        The pairs completed by it, and what was counted: matured (pairs), late (label after the
        horizon), early (label before its prediction), duplicate (a further label), expired
        (prediction dropped without a label), orphan (label dropped without a prediction).
        """
        counts: Counts = Counter()
        who = np.array([self._known(name) for name in batch.names], np.int64)[batch.who].tolist()
        found: list[tuple[int, int, int, float, float, int]] = []
        columns = zip(
            batch.offsets.tolist(),
            batch.ids,
            batch.times.tolist(),
            batch.labels.tolist(),
            batch.scores.tolist(),
            who,
            strict=True,
        )
        for row, (offset, event_id, time, label, score, name) in enumerate(columns):
            self._forget(offset - self._reach, counts)
            if score != score:  # NaN: a label
                pair = self._label(event_id, (offset, time, label), counts)
            else:
                pair = self._prediction(event_id, (offset, time, score, name), counts)
            if pair is not None:
                found.append((row, *pair))
        return self._pairs(found), counts

    def _label(
        self, event_id: str, label: tuple[int, int, float], counts: Counts
    ) -> tuple[int, int, float, float, int] | None:
        prediction = self._waiting.get(event_id)
        if prediction is None:
            # The latest one stays, so that what is kept depends on the nearest records only.
            is_known = self._early.pop(event_id, None) is not None
            counts["duplicate" if is_known else "early"] += 1
            self._early[event_id] = label
            return None
        if prediction[3] == _JOINED:
            counts["duplicate"] += 1
            return None
        return self._pair(event_id, prediction, label, counts)

    def _prediction(
        self, event_id: str, prediction: tuple[int, int, float, int], counts: Counts
    ) -> tuple[int, int, float, float, int] | None:
        before = self._waiting.pop(event_id, None)
        if before is not None and before[3] != _JOINED:
            counts["expired"] += 1
        self._waiting[event_id] = prediction
        label = self._early.pop(event_id, None)
        return label and self._pair(event_id, prediction, label, counts)

    def _pair(
        self,
        event_id: str,
        prediction: tuple[int, int, float, int],
        label: tuple[int, int, float],
        counts: Counts,
    ) -> tuple[int, int, float, float, int] | None:
        offset, time, score, name = prediction
        self._waiting[event_id] = (offset, time, score, _JOINED)
        if label[1] - time > self._horizon_ms:
            counts["late"] += 1
            return None
        counts["matured"] += 1
        return offset, time, score, label[2], name

    def _forget(self, before: int, counts: Counts) -> None:
        """Drop what lies out of reach of the present offset."""
        waiting, early = self._waiting, self._early
        while waiting and (entry := next(iter(waiting.values())))[0] < before:
            waiting.popitem(last=False)
            if entry[3] != _JOINED:
                counts["expired"] += 1
        while early and next(iter(early.values()))[0] < before:
            early.popitem(last=False)
            counts["orphan"] += 1

    def _known(self, name: Who) -> int:
        index = self._index.get(name)
        if index is None:
            index = self._index[name] = len(self._names)
            self._names.append(name)
        return index

    def _pairs(self, found: list[tuple[int, int, int, float, float, int]]) -> Pairs:
        columns = list(zip(*found, strict=True)) if found else [()] * 6
        rows, offsets, times, scores, labels, who = columns
        return Pairs(
            rows=np.array(rows, np.int64),
            offsets=np.array(offsets, np.int64),
            times=np.array(times, np.int64),
            scores=np.array(scores, np.float64),
            labels=np.array(labels, np.float64),
            who=np.array(who, np.int64),
            names=self._names,
        )
