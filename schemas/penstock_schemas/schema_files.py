"""Access to the ``.avsc`` files that ship with this package."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def schema_text(file_name: str) -> str:
    """Return the text of a shipped schema, such as ``prediction.avsc``."""
    return files("penstock_schemas").joinpath(file_name).read_text(encoding="utf-8")


def schema(file_name: str) -> dict[str, Any]:
    """Return a shipped schema parsed from JSON; a fresh copy each time."""
    parsed: dict[str, Any] = json.loads(schema_text(file_name))
    return parsed


def projection(file_name: str, fields: tuple[str, ...]) -> str:
    """Return a shipped schema cut down to some of its fields, as text.

    A reader that asks for less can read what more writers write.
    """
    whole = schema(file_name)
    return json.dumps({**whole, "fields": [f for f in whole["fields"] if f["name"] in fields]})
