"""Runs the loops of every pipeline until told to stop."""

from __future__ import annotations

import threading
from pathlib import Path

from penstock_pipelines.loader import load_pipeline
from penstock_service.health import serve_health
from penstock_service.loop_thread import LoopThread
from penstock_streaming.metrics import LoopMetrics
from prometheus_client import CollectorRegistry, generate_latest

from penstock_drift.loops import PipelineLoops
from penstock_drift.metrics import DriftFamilies
from penstock_drift.report.keeper import Reported, ReportKeeper
from penstock_drift.settings import DriftSettings


def run(settings: DriftSettings, stop: threading.Event) -> int:
    """Run the service until ``stop`` is set or a loop fails.

    Returns
    -------
    The exit code: 0 after a stop, 1 if a loop failed.

    Raises
    ------
    ConfigError
        If a pipeline folder is wrong.
    """
    registry = CollectorRegistry()
    families = LoopMetrics(registry), DriftFamilies(registry)
    pipelines = [
        PipelineLoops(load_pipeline(Path(folder)), settings, families)
        for folder in settings.pipelines
    ]
    threads = [thread for loops in pipelines for thread in _threads(loops, settings, stop)]

    def metrics() -> bytes:
        for loops in pipelines:
            loops.quality.export()
        return generate_latest(registry)

    for thread in threads:
        thread.thread.start()
    keeper = ReportKeeper(settings, _reported(pipelines, settings))
    keeper.start()
    with serve_health(
        settings.metrics_host,
        settings.metrics_port,
        live=lambda: all(thread.is_live for thread in threads),
        ready=lambda: all(thread.is_ready for thread in threads),
        metrics=metrics,
    ):
        stop.wait()
        for thread in threads:
            thread.stop()
        for thread in threads:
            thread.thread.join(settings.loop.drain_timeout_s + 4.0)
        keeper.close()
    return 1 if any(thread.has_failed for thread in threads) else 0


def _reported(pipelines: list[PipelineLoops], settings: DriftSettings) -> dict[str, Reported]:
    return {
        loops.config.pipeline: Reported(folder, loops.config.topic_names.drift, loops.metrics)
        for loops, folder in zip(pipelines, settings.pipelines, strict=True)
    }


def _threads(
    loops: PipelineLoops, settings: DriftSettings, stop: threading.Event
) -> list[LoopThread]:
    name = loops.config.pipeline
    builds = {
        f"predictions-{name}": loops.predictions,
        f"interactions-{name}": loops.interactions,
        f"monitor-{name}": loops.monitor,
    }
    return [
        LoopThread(
            role,
            build,
            stop,
            start_timeout_s=settings.start_timeout_s,
            stuck_after_s=settings.stuck_after_s,
        )
        for role, build in builds.items()
    ]
