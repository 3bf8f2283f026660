from __future__ import annotations

import pyarrow as pa
import pytest
from penstock_features.rules import Rules
from penstock_pipelines.model import Rule
from penstock_schemas.errors import ConfigError


def broken(rule: dict[str, object], column: pa.Array) -> list[int]:
    rules = Rules([Rule.model_validate({"field": "x", **rule})])
    return [row for row, _ in rules.violations(pa.record_batch({"x": column}))]


@pytest.mark.parametrize(
    ("rule", "values", "rows"),
    [
        ({"min": 0}, [0.0, -0.1, float("nan"), None, float("inf")], [1, 2]),
        ({"max": 5}, [5, 6, None], [1]),
        ({"min": 0, "max": 5}, [-1, 3, 9], [0, 2]),
        ({"one_of": ["EUR", "USD"]}, ["EUR", "eur", None], [1]),
        ({"max_length": 2}, ["äö", "abc", None, ""], [1]),
        ({"pattern": "[A-Z]{3}"}, ["EUR", "EURO", "EUR\n", "xEUR", None], [1, 2, 3]),
        ({"pattern": "a|b"}, ["a", "ab", "b"], [1]),
    ],
)
def test_rule(rule: dict[str, object], values: list[object], rows: list[int]) -> None:
    assert broken(rule, pa.array(values)) == rows


def test_rule_on_an_enum_column() -> None:
    assert broken({"one_of": ["a"]}, pa.array(["a", "b", "a"]).dictionary_encode()) == [1]


def test_first_broken_rule_is_reported_with_what_came() -> None:
    rules = Rules(
        [
            Rule.model_validate({"field": "x", "min": 0}),
            Rule.model_validate({"field": "y", "max_length": 3}),
        ]
    )
    columns = pa.record_batch({"x": [1.0, -2.0, -3.0], "y": ["y" * 100, "abcd", "abc"]})
    (one, first), (two, second), (three, third) = rules.violations(columns)
    assert (one, two, three) == (0, 1, 2)
    assert (first.field, first.expected) == ("y", "at most 3 characters")
    assert first.got is not None
    assert len(first.got) == 60
    assert (second.field, second.expected, second.got) == ("x", "at least 0", "-2.0")
    assert third.field == "x"


def test_pattern_that_is_no_pattern_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="RE2"):
        Rules([Rule.model_validate({"field": "x", "pattern": "(?<=a)b"})])


def test_no_rules_and_no_rows() -> None:
    assert Rules([]).violations(pa.record_batch({"x": [1]})) == []
    assert broken({"min": 0}, pa.array([], pa.float64())) == []
