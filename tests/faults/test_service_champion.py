"""A new champion that is no good: the old one answers on."""

from __future__ import annotations

import pytest
from harness.fault_pipeline import KINDS, FaultWindow, Rollout, ServedPipeline
from harness.waiting import Background, eventually

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(400)]

PACE = 500.0
BACK_S = 60.0


@pytest.mark.parametrize("kind", KINDS[:3])
def test_champion_that_cannot_serve_leaves_the_old_one_serving(
    own_pipeline: ServedPipeline, seed: int, in_background: Background, kind: str
) -> None:
    own_pipeline.start_ingest()
    rollout = Rollout(own_pipeline)
    with FaultWindow(own_pipeline, f"F25 champion {kind}", seed) as window:
        router = own_pipeline.started_router()
        publishing = window.publishing(in_background, 12.0, PACE)
        eventually(lambda: window.run.done("inference") > 1_000, BACK_S, "work is under way")
        rollout.champion(rollout.publish(kind))
        eventually(lambda: not router.is_ready, BACK_S, "the router says that it is not well")
        publishing.join()
        window.ended(f"champion: {kind}")
        # The versions of the routing state must answer, by I10: here the old one does.
        report = window.judge(skip=("I10 provenance", "I10 version switches"))
        window.note(f"{report.predictions} predictions of version 1")
        assert {p["model_version"] for p in window.run.decoded("predictions")} == {"1"}
        assert router.stop() == 0
    rollout.close()
