"""The label join, of a stream and of tables."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_monitoring.label_join import REBUILT_FROM, Keep, StreamJoin, join_labels
from penstock_monitoring.observations import Observations

Record = tuple[str, float | None]
"""Event id, and the label; None in a prediction."""


def batch(records: list[Record], first: int = 0, time: int = 0) -> Observations:
    n = len(records)
    labels = np.array([np.nan if label is None else label for _, label in records])
    empty = pa.ListArray.from_arrays(
        pa.array(np.zeros(n + 1, np.int32)), pa.array([], pa.float32())
    )
    return Observations(
        offsets=np.arange(first, first + n),
        ids=[event_id for event_id, _ in records],
        times=np.full(n, time),
        labels=labels,
        scores=np.where(np.isnan(labels), 0.25, np.nan),
        who=np.isnan(labels).astype(np.int64),
        names=[("", "", ""), ("m", "1", "champion")],
        features=empty,
    )


def joined(
    join: StreamJoin, records: list[Record], first: int = 0
) -> tuple[list[Any], Counter[str]]:
    pairs, counts = join.join(batch(records, first))
    return list(zip(pairs.offsets.tolist(), pairs.labels.tolist(), strict=True)), counts


def test_label_after_prediction() -> None:
    pairs, counts = joined(StreamJoin(10, 1e9), [("a", None), ("b", None), ("a", 1.0)])
    assert pairs == [(0, 1.0)]
    assert counts == {"matured": 1}


def test_label_before_prediction_waits() -> None:
    join = StreamJoin(10, 1e9)
    assert joined(join, [("a", 1.0)]) == ([], {"early": 1})
    assert joined(join, [("a", None)], 1) == ([(1, 1.0)], {"matured": 1})


def test_further_labels_are_counted_and_ignored() -> None:
    pairs, counts = joined(StreamJoin(10, 1e9), [("a", None), ("a", 1.0), ("a", 0.0), ("a", 0.0)])
    assert pairs == [(0, 1.0)]
    assert counts == {"matured": 1, "duplicate": 2}


def test_what_is_out_of_reach_goes() -> None:
    join = StreamJoin(3, 1e9)
    _, counts = joined(join, [("a", None), ("x", 1.0), ("b", None), ("c", None), ("d", None)])
    assert counts == {"early": 1, "expired": 1}
    assert joined(join, [("a", 1.0)], 5) == ([], {"early": 1, "orphan": 1})
    assert joined(join, [("b", 1.0)], 5)[0] == [(2, 1.0)], "in reach by one offset"


def test_label_after_the_horizon_is_late() -> None:
    join = StreamJoin(10, 100.0)
    join.join(batch([("a", None), ("b", None)], 0, time=0))
    _, counts = join.join(batch([("a", 1.0)], 2, time=101))
    assert counts == {"late": 1}
    pairs, _ = join.join(batch([("b", 1.0)], 3, time=100))
    assert len(pairs) == 1


def test_a_later_prediction_of_an_event_takes_the_place_of_the_earlier_one() -> None:
    pairs, counts = joined(StreamJoin(10, 1e9), [("a", None), ("a", None), ("a", 1.0)])
    assert pairs == [(1, 1.0)]
    assert counts == {"expired": 1, "matured": 1}


def test_store_is_bounded() -> None:
    join = StreamJoin(50, 1e9)
    records: list[Record] = [(f"p{i}", None) if i % 2 else (f"l{i}", 1.0) for i in range(5_000)]
    join.join(batch(records))
    predictions, labels = join.waiting
    assert predictions + labels <= 51


LOGS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from([None, None, 0.0, 1.0])), max_size=80
)


@given(LOGS, st.integers(0, 80))
def test_cuts_do_not_matter(log: list[Record], cut: int) -> None:
    whole = joined(StreamJoin(7, 1e9), log)
    join = StreamJoin(7, 1e9)
    first, second = joined(join, log[:cut]), joined(join, log[cut:], cut)
    if cut < len(log):
        assert first[0] + second[0] == whole[0]
        assert first[1] + second[1] == +whole[1]


@given(LOGS, st.integers(0, 80), st.integers(1, 12))
def test_store_is_rebuilt_from_a_few_reaches(log: list[Record], cut: int, reach: int) -> None:
    cut = min(cut, len(log))
    unbroken = StreamJoin(reach, 1e9)
    unbroken.join(batch(log[:cut]))
    expected = joined(unbroken, log[cut:], cut)
    rebuilt = StreamJoin(reach, 1e9)
    start = max(0, cut - REBUILT_FROM * reach)
    rebuilt.join(batch(log[start:cut], start))
    assert joined(rebuilt, log[cut:], cut) == expected


@pytest.mark.parametrize("seed", range(3))
def test_every_prediction_ends_in_one_of_the_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    log: list[Record] = [
        (f"e{rng.integers(200)}", None if rng.random() < 0.5 else 1.0) for _ in range(2_000)
    ]
    join = StreamJoin(100, 1e9)
    _, counts = joined(join, log)
    predictions = sum(label is None for _, label in log)
    # Joined ones are kept too, to know a duplicate.
    assert counts["matured"] + counts["expired"] <= predictions
    assert predictions - counts["matured"] - counts["expired"] <= join.waiting[0]


def tables(records: list[Record], time: int = 0) -> tuple[pa.Table, pa.Table]:
    """Return predictions and labels as tables; a record's place is its offset and its time."""
    located = [(offset, *record) for offset, record in enumerate(records)]
    predictions = [(n, event_id) for n, event_id, label in located if label is None]
    labels = [(n, event_id, label) for n, event_id, label in located if label is not None]
    strings, floats = pa.string(), pa.float64()
    return (
        pa.table(
            {
                "partition": pa.array([0] * len(predictions), pa.int32()),
                "offset": pa.array([n for n, _ in predictions], pa.int64()),
                "event_id": pa.array([event_id for _, event_id in predictions], strings),
                "event_time": pa.array([time] * len(predictions), pa.int64()),
            }
        ),
        pa.table(
            {
                "partition": pa.array([0] * len(labels), pa.int32()),
                "offset": pa.array([n for n, *_ in labels], pa.int64()),
                "event_id": pa.array([event_id for _, event_id, _ in labels], strings),
                "label": pa.array([label for *_, label in labels], floats),
                "occurred_at": pa.array([n for n, *_ in labels], pa.int64()),
            }
        ),
    )


@pytest.mark.parametrize(
    ("prediction", "label", "expected"),
    [
        ("first", "first", (0, 1.0)),
        ("first", "last", (0, 0.0)),
        ("last", "first", (2, 1.0)),
        ("last", "last", (2, 0.0)),
    ],
)
def test_which_of_several_counts_is_a_parameter(
    prediction: Keep, label: Keep, expected: tuple[int, float]
) -> None:
    log: list[Record] = [("a", None), ("a", 1.0), ("a", None), ("a", 0.0), ("x", None)]
    found = join_labels(*tables(log), prediction=prediction, label=label)
    assert found is not None
    assert (found["offset"].to_pylist(), found["label"].to_pylist()) == (
        [expected[0]],
        [expected[1]],
    )


def test_label_after_the_horizon_leaves_its_event_out() -> None:
    log: list[Record] = [("a", None), ("b", None), ("a", 1.0), ("b", 1.0)]
    found = join_labels(*tables(log), horizon_ms=2.0)
    assert found is not None
    assert found["event_id"].to_pylist() == ["a"]
    assert join_labels(*tables(log), horizon_ms=1.0) is None


@given(st.permutations([(name, label) for name in "abcdef" for label in (None, 1.0)]))
def test_stream_and_tables_agree_on_one_prediction_and_label_of_an_event(log: list[Record]) -> None:
    pairs, _ = joined(StreamJoin(100, 1e9), log)
    found = join_labels(*tables(log))
    assert found is not None
    assert sorted(pairs) == sorted(
        zip(found["offset"].to_pylist(), found["label"].to_pylist(), strict=True)
    )
