"""What a running loop takes from pipeline.yaml are settings that it can change."""

from __future__ import annotations

from penstock_pipelines.model import Batching, Limits, live_settings
from penstock_streaming.settings import LoopSettings


def test_all_that_is_live_is_live_in_the_loop_and_starts_as_the_loop_would() -> None:
    settings = live_settings(Batching(), Limits())
    assert set(settings) == set(LoopSettings.LIVE)
    assert LoopSettings().model_copy(update=settings) == LoopSettings()
