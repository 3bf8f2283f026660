"""A stack of a test's own, and waiting with a deadline, on conditions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.tiny_components import OFFSET
from harness.waiting import eventually
from penstock_stack.component import StackConfig
from penstock_stack.endpoints import Endpoints

DEADLINE_S = 20.0


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Return a function that waits until a condition holds, or fails the test."""

    def wait(condition: Callable[[], bool]) -> None:
        eventually(condition, DEADLINE_S, every_s=0.02)

    return wait


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackConfig:
    """Return a stack of the test's own."""
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the supervisor marks its own
    return StackConfig(tmp_path, tmp_path / "cache", Endpoints.from_environment({}, OFFSET))
