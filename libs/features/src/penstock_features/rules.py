"""The rules of pipeline.yaml over columns: the rows that break one, and the first one broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from penstock_pipelines.model import Rule
from penstock_schemas.errors import ConfigError, RuleViolation

from penstock_features.arrow_columns import numbers, texts

Mask = npt.NDArray[np.bool_]
GOT_MAX_CHARS = 60
"""Longest value quoted in a dead letter."""


@dataclass(frozen=True, slots=True)
class _Condition:
    """One test of one field; ``holds`` gives a boolean column, null where the field is null."""

    field: str
    expected: str
    holds: Callable[[pa.Array], Any]


class Rules:
    """The rules of one pipeline, checked in their order.

    A null field breaks no rule: whether it may be missing is said by the schema and the features.

    Raises
    ------
    ConfigError
        If a pattern is not an RE2 expression.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._conditions = [c for rule in rules for c in _conditions(rule)]

    def violations(self, columns: pa.RecordBatch) -> list[tuple[int, RuleViolation]]:
        """Return (row, first broken rule) of each row that breaks one, rows ascending."""
        found: dict[int, RuleViolation] = {}
        for condition in self._conditions:
            column = columns.column(condition.field)
            for row in np.flatnonzero(_broken(condition.holds(column), column)).tolist():
                if row not in found:
                    found[row] = RuleViolation(
                        "a rule is broken",
                        field=condition.field,
                        expected=condition.expected,
                        got=_short(column[row].as_py()),
                    )
        return sorted(found.items())


def _conditions(rule: Rule) -> list[_Condition]:
    name = rule.field
    result: list[_Condition] = []
    if rule.min is not None:
        low = rule.min
        result.append(_Condition(name, f"at least {low:g}", lambda c: numbers(c, name) >= low))
    if rule.max is not None:
        high = rule.max
        result.append(_Condition(name, f"at most {high:g}", lambda c: numbers(c, name) <= high))
    if rule.one_of is not None:
        allowed = pa.array(rule.one_of, pa.string())
        shown = _short(", ".join(rule.one_of))
        result.append(
            _Condition(name, f"one of {shown}", lambda c: pc.is_in(texts(c), value_set=allowed))
        )
    if rule.max_length is not None:
        longest = rule.max_length
        result.append(
            _Condition(
                name,
                f"at most {longest} characters",
                lambda c: pc.less_equal(pc.utf8_length(texts(c)), longest),
            )
        )
    if rule.pattern is not None:
        result.append(_pattern(name, rule.pattern))
    return result


def _pattern(name: str, pattern: str) -> _Condition:
    whole = rf"\A(?:{pattern})\z"
    try:
        pc.match_substring_regex(pa.array([""]), whole)
    except pa.ArrowInvalid as exc:
        raise ConfigError(f"rule on {name!r}: expected an RE2 pattern, got {pattern!r}") from exc
    return _Condition(
        name, f"to match {pattern}", lambda c: pc.match_substring_regex(texts(c), whole)
    )


def _broken(holds: Any, column: pa.Array) -> Mask:
    """Return where a condition does not hold, nulls excepted."""
    if isinstance(holds, pa.Array):
        holds = holds.fill_null(True).to_numpy(zero_copy_only=False)
    broken: Mask = ~holds
    if column.null_count:
        broken &= column.is_valid().to_numpy(zero_copy_only=False)
    return broken


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= GOT_MAX_CHARS else text[: GOT_MAX_CHARS - 1] + "…"
