"""Fixtures of the loop's tests."""

from __future__ import annotations

from typing import Any

import pytest
from harness.loop import MakeRig, Recorder, Rig, Stateless
from penstock_streaming.settings import LoopSettings


@pytest.fixture
def make_rig() -> MakeRig:
    """Return a maker of rigs: every turn commits and every retry is due at once by default."""

    def make(handler: Recorder | None = None, **settings: Any) -> Rig:
        facts = {"max_transaction_rows": 1, "idle_poll_s": 1e-6, "retry_max_wait_s": 1e-9}
        return Rig(handler or Stateless(), LoopSettings(**{**facts, **settings}))

    return make
