"""Serve adds a router for a backlog and takes it away again; every event has one outcome."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from harness.fault_pipeline import FaultWindow, ServedPipeline
from harness.services import ServeService, ServiceAddresses
from harness.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(420)]

EVENTS: Final = 60_000
UP_S: Final = 120.0
DRAIN_S: Final = 120.0
DOWN_S: Final = 60.0
SETTINGS: Final = {
    "PENSTOCK_INFERENCE_AUTOSCALING__ENABLED": "true",
    "PENSTOCK_INFERENCE_AUTOSCALING__MAX_REPLICAS": "5",  # there are two partitions
    "PENSTOCK_INFERENCE_AUTOSCALING__TARGET_DRAIN_S": "5",
    "PENSTOCK_INFERENCE_AUTOSCALING__UP_COOLDOWN_S": "5",
    "PENSTOCK_INFERENCE_AUTOSCALING__DOWN_COOLDOWN_S": "15",
}


def test_a_backlog_brings_a_second_replica_that_goes_again(
    make_pipeline: Callable[..., ServedPipeline],
    addresses: ServiceAddresses,
    tmp_path: Path,
    seed: int,
) -> None:
    # Tiny batches make a router slow enough for a backlog that a test can afford.
    pipeline = make_pipeline(
        batching="{max_batch_rows: 4, max_in_flight: 1, commit_interval_ms: 50}"
    )
    pipeline.start_ingest()
    service = ServeService(addresses, tmp_path, pipeline.loaded.folder, SETTINGS)
    with service.running(), FaultWindow(pipeline, "autoscaling", seed) as window:
        window.publish(EVENTS)
        window.note("published")
        most = 1

        def scaled_to(replicas: int) -> bool:
            nonlocal most
            most = max(most, service.replicas)
            return service.replicas == service.ready == replicas

        eventually(lambda: scaled_to(2), UP_S, "a second replica for the backlog")
        window.note(f"two replicas, backlog {window.run.backlog('inference')}")
        window.run.drain(DRAIN_S)
        window.note("drained")
        assert service.replicas == 2, "it waits for a calm time"
        eventually(lambda: scaled_to(1), DOWN_S, "one replica when it is calm")
        window.note("one replica")
        window.publish(500)
        window.judge()
        assert most == 2, "more replicas than partitions"
        assert not (service.run_dir / "inference-scale.json").exists(), "nobody asked by hand"
