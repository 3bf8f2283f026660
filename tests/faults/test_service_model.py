"""Triton killed, its stub killed, and canaries that are no good: the log stays right."""

from __future__ import annotations

import pytest
from harness.fault_pipeline import KINDS, FaultWindow, Rollout, ServedPipeline
from harness.faults import kill
from harness.services import BareRouter, counted
from harness.stack import Stack
from harness.waiting import Background, eventually

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(400)]

PACE = 500.0
BACK_S = 60.0
SHARE = 40
STUB = "triton_python_backend_stub"


def named(stack: Stack, name: str) -> list[int]:
    return [p.pid for p in stack.processes() if p.name().startswith(name[:15])]


def go_on(window: FaultWindow, router: BareRouter) -> None:
    at = window.run.done("inference")
    eventually(lambda: window.run.done("inference") > at, BACK_S, "it goes on")
    assert router.process.poll() is None, "the router has died of it"


@pytest.mark.parametrize("victim", ["tritonserver", STUB])
def test_killed_server_or_stub_comes_back_and_nothing_dies(
    own_pipeline: ServedPipeline,
    own_triton: Stack,
    seed: int,
    in_background: Background,
    victim: str,
) -> None:
    rounds = 2
    own_pipeline.start_ingest()
    with FaultWindow(own_pipeline, f"F9 {victim}", seed) as window:
        router = own_pipeline.started_router()
        publishing = window.publishing(in_background, rounds * 20.0, PACE)
        eventually(lambda: window.run.done("inference") > 1_000, BACK_S, "work is under way")
        for _ in range(rounds):
            kill(named(own_triton, victim))
            window.ended(f"kill -9 of {victim}")
            began = window.age_s
            go_on(window, router)
            window.note(f"goes on after {window.age_s - began:.1f} s")
        publishing.join()
        report = window.judge()
        assert window.run.count("features_dlq") == 0
        assert report.predictions == window.published.good
        assert router.stop() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_bad_canary_costs_no_event_its_prediction(
    own_pipeline: ServedPipeline, seed: int, in_background: Background, kind: str
) -> None:
    own_pipeline.start_ingest()
    rollout = Rollout(own_pipeline)
    with FaultWindow(own_pipeline, f"F25 canary {kind}", seed) as window:
        router = own_pipeline.started_router()
        publishing = window.publishing(in_background, 15.0, PACE)
        eventually(lambda: window.run.done("inference") > 1_000, BACK_S, "work is under way")
        rollout.canary(rollout.publish(kind), SHARE)
        publishing.join()
        window.ended(f"canary: {kind}")
        window.judge()
        versions = {p["model_version"] for p in window.run.decoded("predictions")}
        fallbacks = counted(own_pipeline.run_dir, "penstock_inference_canary_fallbacks_total")
        out = counted(own_pipeline.run_dir, "penstock_inference_canary_out")
        window.note(f"versions {versions}, {fallbacks:.0f} rows fell back, out {out:.0f}")
        assert versions == {"1"}
        assert fallbacks or out, "the canary was never tried: this proves nothing"
        assert router.stop() == 0
    rollout.close()
