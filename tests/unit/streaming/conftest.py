"""Fixtures of the loop's tests."""

from __future__ import annotations

from typing import Any

import pytest
from harness.loop import FakeLoop, MakeLoop, Recorder, Stateless
from penstock_streaming.settings import LoopSettings


@pytest.fixture
def make_loop() -> MakeLoop:
    """Return a maker of loops: every turn commits and every retry is due at once by default."""

    def make(handler: Recorder | None = None, **settings: Any) -> FakeLoop:
        facts = {"max_transaction_rows": 1, "idle_poll_s": 1e-6, "retry_max_wait_s": 1e-9}
        return FakeLoop(handler or Stateless(), LoopSettings(**{**facts, **settings}))

    return make
