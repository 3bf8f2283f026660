"""Output: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

_UNFOLDED: Final = 2_000
"""Columns of a table that does not go to a terminal."""


def result(text: str) -> None:
    """Print a result."""
    sys.stdout.write(text + "\n")


def result_json(data: Any) -> None:
    """Print a result as one JSON document."""
    result(json.dumps(data, indent=2))


def result_table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows as a table with the given columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    screen = Console(file=sys.stdout)
    if not screen.is_terminal:
        screen.width = _UNFOLDED  # whoever reads a pipe wants one row per line
    screen.print(table)


def note(text: str) -> None:
    """Print progress or advice."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def iso(at_ms: int) -> str:
    """Return a time as ISO 8601 in UTC, to the second.

    Examples
    --------
    >>> iso(1_750_000_000_123)
    '2025-06-15T15:06:40Z'
    """
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "-"
    return f"{value:,.1f}" if isinstance(value, float) else str(value)
