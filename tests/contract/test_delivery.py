"""What docs/delivery.md promises is shown by tests that there are."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")
TEXT = (ROOT / "docs" / "delivery.md").read_text("utf-8")


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the tests of a file, those of a class as ``Class::test``."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
            found.update(f"{node.name}::{name}" for name in inner)
    return frozenset(found)


def promises() -> list[str]:
    """Return the rows of the tables, without their heads."""
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    return [row for row in rows if not row.startswith("| hop |")]


def test_every_test_that_is_named_exists() -> None:
    named = NAMED.findall(TEXT)
    assert len(named) == TEXT.count("::test_"), "a test is named in another form"
    absent = [f"{path}::{name}" for path, name in named if name not in names_in(path)]
    assert not absent


def test_every_promise_names_how_and_a_test() -> None:
    assert len(promises()) > 15
    for row in promises():
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 4, row
        assert all(cells), row
        assert NAMED.search(cells[3]), row
