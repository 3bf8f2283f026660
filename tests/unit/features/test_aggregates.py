from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_features.aggregates import (
    AggregateLayout,
    AggregateTable,
    pack_rows,
    unpack_into,
    warm_up,
)
from penstock_features.history import history
from penstock_features.vectorizer import Vectorizer
from penstock_pipelines.model import PipelineConfig

NAMES = ("n", "total", "mean", "std", "top", "z", "ratio", "gap")
DAY_S = 86_400.0
Event = tuple[str, int, float]


@pytest.fixture(scope="module")
def layout() -> AggregateLayout:
    features = [
        {"name": "n", "aggregate": {"function": "count", "half_life_s": 60}},
        *(
            {"name": name, "aggregate": {"function": function, "of": "amount"}}
            for name, function in [
                ("total", "sum"),
                ("mean", "mean"),
                ("std", "std"),
                ("top", "max"),
                ("z", "zscore"),
                ("ratio", "ratio"),
            ]
        ),
        {"name": "gap", "aggregate": {"function": "since_last"}},
    ]
    return AggregateLayout(
        PipelineConfig.model_validate(
            {
                "pipeline": "tiny",
                "event": {"key": "account"},
                "features": features,
                "model": {"bootstrap": {"data": "x.csv"}},
            }
        )
    )


def _weights(times: list[float], now: float, half_life_s: float) -> list[float]:
    return [0.5 ** ((now - t) / 1000.0 / half_life_s) for t in times]


def _reference(events: list[Event]) -> list[list[float]]:
    """Every aggregate from its definition: sums over all earlier events of the entity."""
    out = []
    for i, (key, _, value) in enumerate(events):
        # An event is placed at its own time or at its entity's latest, whichever is later.
        placed: list[tuple[float, float]] = []
        for k, t, v in events[: i + 1]:
            if k == key:
                placed.append((max(t, placed[-1][0]) if placed else t, v))
        now = placed.pop()[0]
        if not placed:
            out.append([math.nan] * 8)
            continue
        times, values = [t for t, _ in placed], [v for _, v in placed]
        n = sum(_weights(times, now, 60.0))
        w = _weights(times, now, DAY_S)
        mean = sum(a * v for a, v in zip(w, values, strict=True)) / sum(w)
        std = math.sqrt(sum(a * (v - mean) ** 2 for a, v in zip(w, values, strict=True)) / sum(w))
        top = -math.inf
        for position, v in enumerate(values):
            then = times[position + 1] if position + 1 < len(times) else now
            top = max(top, v) * 0.5 ** ((then - times[position]) / 1000.0 / DAY_S)
        out.append(
            [
                n if n >= 1e-9 else math.nan,
                sum(w) * mean,
                mean,
                std,
                top,
                (value - mean) / std if std > 1e-9 * max(1.0, abs(mean)) else math.nan,
                value / mean if abs(mean) > 1e-12 else math.nan,
                (now - times[-1]) / 1000.0,
            ]
        )
    return out


def _update(table: AggregateTable, events: list[Event]) -> np.ndarray:
    return table.update(
        [k for k, _, _ in events],
        np.array([t for _, t, _ in events], dtype=np.int64),
        np.array([[v] for _, _, v in events], dtype=np.float64).reshape(len(events), 1),
    )


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "ü"]),
        st.integers(0, 600_000),
        st.floats(0.0, 1000.0).map(lambda x: round(x, 2)),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(events=EVENTS)
def test_equals_the_definition(layout: AggregateLayout, events: list[Event]) -> None:
    got = _update(AggregateTable(layout), events)
    want = np.array(_reference(events)).reshape(len(events), 8)
    # z magnifies rounding where the deviation is near its guard
    steady = want[:, 3] > 1e-3 if len(events) else np.array([], dtype=bool)
    for column, name in enumerate(NAMES):
        rows = steady if name == "z" else slice(None)
        np.testing.assert_allclose(
            got[rows, column], want[rows, column], rtol=1e-6, atol=1e-6, err_msg=name
        )


@settings(deadline=None, max_examples=40)
@given(events=EVENTS, cuts=st.lists(st.integers(0, 30), max_size=4))
def test_split_of_the_batches_does_not_matter(
    layout: AggregateLayout, events: list[Event], cuts: list[int]
) -> None:
    whole, pieces = AggregateTable(layout), AggregateTable(layout)
    want = _update(whole, events)
    edges = [0, *sorted(min(c, len(events)) for c in cuts), len(events)]
    got = np.concatenate([_update(pieces, events[a:b]) for a, b in pairwise(edges)])
    np.testing.assert_array_equal(got, want)
    rows = np.arange(len(whole))
    np.testing.assert_array_equal(pieces.vectors(rows), whole.vectors(rows))


@settings(deadline=None, max_examples=40)
@given(events=EVENTS, cut=st.integers(0, 30))
def test_packed_state_goes_on_as_if_nothing_happened(
    layout: AggregateLayout, events: list[Event], cut: int
) -> None:
    unbroken, restored = AggregateTable(layout), AggregateTable(layout)
    _update(unbroken, events[:cut])
    keys, payloads = pack_rows(unbroken, unbroken.changed_rows())
    assert unpack_into(restored, keys, payloads) == 0
    np.testing.assert_array_equal(_update(restored, events[cut:]), _update(unbroken, events[cut:]))


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.floats(), min_size=1, max_size=20),
    times=st.lists(st.integers(-(2**53), 2**53), min_size=20, max_size=20),
)
def test_state_and_answers_stay_finite_whatever_comes(
    layout: AggregateLayout, values: list[float], times: list[int]
) -> None:
    table = AggregateTable(layout)
    events = [("a", t, v) for t, v in zip(times, values, strict=False)]
    answers = _update(table, events)
    assert not np.isinf(answers).any()
    assert np.isfinite(table.vectors(np.array([0]))).all()


def test_touched_rows_are_reported_once(layout: AggregateLayout) -> None:
    table = AggregateTable(layout)
    _update(table, [("a", 1, 1.0), ("b", 2, 1.0), ("a", 3, 1.0)])
    assert table.keys(table.changed_rows()) == ["a", "b"]
    assert len(table.changed_rows()) == 0
    _update(table, [("b", 4, 1.0)])
    assert table.keys(table.changed_rows()) == ["b"]


def test_table_grows_past_its_first_size(layout: AggregateLayout) -> None:
    table = AggregateTable(layout)
    _update(table, [(f"k{i}", i, float(i)) for i in range(1000)])
    assert len(table) == 1000
    again = _update(table, [(f"k{i}", 1000, 0.0) for i in range(1000)])
    np.testing.assert_allclose(again[:, 2], np.arange(1000.0))


def test_peek_changes_nothing_and_knows_no_strangers(layout: AggregateLayout) -> None:
    table = AggregateTable(layout)
    _update(table, [("a", 1000, 4.0)])
    table.changed_rows()
    times, values = np.array([61_000, 61_000]), np.array([[8.0], [8.0]])
    first = table.peek(["a", "stranger"], times, values)
    np.testing.assert_array_equal(table.peek(["a", "stranger"], times, values), first)
    assert first[0, 0] == pytest.approx(0.5)
    assert first[0, 6] == pytest.approx(2.0)
    assert np.isnan(first[1]).all()
    assert len(table) == 1
    assert len(table.changed_rows()) == 0


def test_latest_includes_the_last_event(layout: AggregateLayout) -> None:
    table = AggregateTable(layout)
    _update(table, [("a", 1000, 4.0), ("a", 1000, 8.0)])
    latest = table.latest_aggregates(np.array([0]))[0]
    assert latest[0] == pytest.approx(2.0)
    assert latest[2] == pytest.approx(6.0)
    assert np.isnan(latest[5])


def test_state_of_another_layout_is_ignored(layout: AggregateLayout) -> None:
    table = AggregateTable(layout)
    _update(table, [("a", 1000, 4.0)])
    keys, payloads = pack_rows(table, np.array([0]))
    foreign = table.vectors(np.array([0]))
    foreign[0, 0] += 1
    fresh = AggregateTable(layout)
    assert fresh.load_vectors(["a"], foreign) == 1
    assert unpack_into(fresh, keys * 2, [payloads[0][:-8], b""]) == 2
    assert len(fresh) == 0


def test_layout_id_follows_the_groups(layout: AggregateLayout, config: PipelineConfig) -> None:
    same = AggregateLayout(config)
    assert same.layout_id == layout.layout_id
    features = list(config.features)
    features[8] = features[8].model_copy(
        update={"aggregate": features[8].aggregate.model_copy(update={"half_life_s": 61.0})}
    )
    other = AggregateLayout(config.model_copy(update={"features": tuple(features)}))
    assert other.layout_id != layout.layout_id


def test_history_is_the_stream(
    config: PipelineConfig, events: Callable[..., pa.RecordBatch]
) -> None:
    amounts = pa.array([float("nan") if i == 5 else float(i) for i in range(40)])
    columns = events(40, amount=amounts)
    online = {"profile:limit": np.arange(40.0)}
    offline = history(config, columns, online)
    vectorizer, table = Vectorizer(config), AggregateTable(config)
    for i in range(40):
        one = columns.slice(i, 1)
        if vectorizer.event_part(one).violations:
            assert np.isnan(offline[i]).all()
            continue
        times = one.column("event_time").cast(pa.int64()).to_numpy()
        aggregates = table.update(one.column("account"), times, table.layout.values(one))
        live = vectorizer.complete(
            vectorizer.event_part(one).matrix, aggregates, {"profile:limit": np.array([float(i)])}
        )
        np.testing.assert_array_equal(offline[i], live[0])


def test_warm_up_takes_any_pipeline(config: PipelineConfig) -> None:
    warm_up(config)
