from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from penstock_features.vectorizer import Vectorizer
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.errors import ConfigError

Events = Callable[..., pa.RecordBatch]


def _column(config: PipelineConfig, matrix: np.ndarray, name: str) -> list[float]:
    return matrix[:, config.feature_names.index(name)].tolist()


def test_event_features_are_what_they_say(config: PipelineConfig, events: Events) -> None:
    # Friday 17 November 2023, 06:00 and 18:00 UTC
    times = pa.array([1_700_200_800_000, 1_700_244_000_000], pa.timestamp("ms"))
    part = Vectorizer(config).event_part(events(2, event_time=times))
    assert part.violations == []
    assert _column(config, part.matrix, "amount") == [0.0, 1.0]
    assert _column(config, part.matrix, "amount_log") == pytest.approx([0.0, np.log(2)])
    assert _column(config, part.matrix, "hour_sin") == pytest.approx([1.0, -1.0])
    assert _column(config, part.matrix, "hour_cos") == pytest.approx([0.0, 0.0], abs=1e-6)
    assert _column(config, part.matrix, "weekday") == [4.0, 4.0]
    assert _column(config, part.matrix, "present") == [1.0, 0.0]
    assert _column(config, part.matrix, "kind=a") == [1.0, 0.0]
    assert _column(config, part.matrix, "kind=b") == [0.0, 1.0]


def test_unseen_one_hot_value_gives_zeros_and_enum_columns_work(
    config: PipelineConfig, events: Events
) -> None:
    kinds = pa.array(["c", "b"]).dictionary_encode()
    part = Vectorizer(config).event_part(events(2, kind=kinds))
    assert part.violations == []
    assert _column(config, part.matrix, "kind=a") == [0.0, 0.0]
    assert _column(config, part.matrix, "kind=b") == [0.0, 1.0]


@pytest.mark.parametrize(
    ("value", "got"),
    [(None, "null"), (float("nan"), "nan"), (float("-inf"), "-inf"), (1e300, "1e+300")],
)
def test_missing_required_value_is_a_violation_of_that_row(
    config: PipelineConfig, events: Events, value: float | None, got: str
) -> None:
    amounts = pa.array([1.0, value, 2.0], pa.float64())
    part = Vectorizer(config).event_part(events(3, amount=amounts))
    assert [row for row, _ in part.violations] == [1]
    error = part.violations[0][1]
    assert (error.field, error.expected, error.got) == ("amount", "a finite number", got)
    assert error.dead_letter_class == "rule"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_missing_value_is_imputed_where_allowed(
    config: PipelineConfig, events: Events, value: float | None
) -> None:
    ages = pa.array([1.0, value], pa.float64())
    part = Vectorizer(config).event_part(events(2, age=ages))
    assert part.violations == []
    assert _column(config, part.matrix, "age") == [1.0, 7.5]


def test_null_category_is_a_violation(config: PipelineConfig, events: Events) -> None:
    part = Vectorizer(config).event_part(events(2, kind=pa.array(["a", None])))
    assert [(row, e.field, e.got) for row, e in part.violations] == [(1, "kind", "null")]


def test_defaults_stand_in_for_unknown_history_and_entity(
    config: PipelineConfig, events: Events
) -> None:
    unknown = np.full((2, 8), np.nan)
    online = {"profile:limit": np.array([np.nan, np.e - 1])}
    vectorizer = Vectorizer(config)
    matrix = vectorizer.complete(vectorizer.event_part(events(2)).matrix, unknown, online)
    assert np.isfinite(matrix).all()
    assert _column(config, matrix, "mean") == [-1.0, -1.0]
    assert _column(config, matrix, "gap") == [99.0, 99.0]
    assert _column(config, matrix, "limit") == pytest.approx([3.0, 1.0])


def test_text_where_a_number_is_expected_is_a_configuration_error(
    config: PipelineConfig, events: Events
) -> None:
    with pytest.raises(ConfigError, match="amount"):
        Vectorizer(config).event_part(events(1, amount=pa.array(["x"])))
