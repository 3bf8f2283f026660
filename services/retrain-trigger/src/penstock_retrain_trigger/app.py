"""Builds what controls each pipeline, folds the topics, and runs the Faust app until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_registry.schema_registry import RegistryClient
from penstock_schemas.errors import FatalError, RetryableError
from penstock_service.health import serve_health
from penstock_streaming.timing import Deadline, Outage
from prometheus_client import CollectorRegistry, generate_latest

from penstock_retrain_trigger.faust_app import ControlApp, make_app, quieten
from penstock_retrain_trigger.jobs import JobWatch, RayJobs
from penstock_retrain_trigger.metrics import TriggerFamilies, TriggerMetrics
from penstock_retrain_trigger.retrain_log import Decisions, RetrainLog
from penstock_retrain_trigger.settings import TriggerSettings

LOG = logging.getLogger(__name__)
_HEARTBEAT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 5.0
_STOP_S: Final = 2.5


class Service:
    """The running service: what the probes ask, and why it ends.

    Parameters
    ----------
    pipelines
        The loaded pipelines.
    """

    def __init__(self, settings: TriggerSettings, pipelines: Sequence[LoadedPipeline]) -> None:
        self._settings = settings
        self._pipelines = pipelines
        self._beat = time.monotonic()
        self._stop = asyncio.Event()
        self.metrics = CollectorRegistry()
        self.is_ready = False
        self.error: BaseException | None = None

    @property
    def is_live(self) -> bool:
        """Whether the event loop has turned lately."""
        silence_s = time.monotonic() - self._beat
        return self.error is None and silence_s < self._settings.stuck_after_s

    def stop(self) -> None:
        """Ask the service to end."""
        self._stop.set()

    def fail(self, error: BaseException) -> None:
        """Ask the service to end for an error, which becomes its exit code."""
        if self.error is None:
            LOG.error("the service ends: %s", error, exc_info=error)
            self.error = error
        self._stop.set()

    async def run(self) -> None:
        """Run until told to stop or an error is fatal."""
        settings = self._settings
        jobs = RayJobs(settings.ray_jobs_url, settings.ray_auth_token_path, settings.ray_timeout_s)
        registry = RegistryClient(settings.registry)
        families = TriggerFamilies(self.metrics)
        watches = [self._watch(p, registry, jobs, families) for p in self._pipelines]
        beating = asyncio.create_task(self._keep_beating())
        work = asyncio.create_task(self._work(watches))
        try:
            await self._stop.wait()
        finally:
            self.is_ready = False
            work.cancel()
            with suppress(asyncio.CancelledError, asyncio.TimeoutError):
                await asyncio.wait_for(work, _STOP_S)
            await asyncio.gather(*(watch.decisions.close() for watch in watches), jobs.close())
            beating.cancel()

    def _watch(
        self,
        loaded: LoadedPipeline,
        registry: RegistryClient,
        jobs: RayJobs,
        families: TriggerFamilies,
    ) -> JobWatch:
        config, settings = loaded.config, self._settings
        topic = config.topic_names.retrain
        metrics = TriggerMetrics(families, config.pipeline)
        log = RetrainLog(settings.kafka, registry, topic, config.pipeline, settings.write_timeout_s)
        decisions = Decisions(log, config.retrain, metrics)
        return JobWatch(settings, loaded.folder, decisions, jobs, metrics)

    async def _work(self, watches: Sequence[JobWatch]) -> None:
        """Fold the topics, then run the agents; returns only by an error."""
        try:
            for watch in watches:
                await self._open(watch.decisions)
            app = make_app(self._settings, watches, self.fail)
            try:
                await app.start()
                await self._follow(app, {watch.decisions.topic for watch in watches})
            finally:
                await app.stop()
        except Exception as exc:
            self.fail(exc)

    async def _open(self, decisions: Decisions) -> None:
        deadline = Deadline(self._settings.start_timeout_s)
        outage = Outage(_LONGEST_WAIT_S)
        while True:
            try:
                return await decisions.open()
            except RetryableError as exc:
                if deadline.expired:
                    raise FatalError(f"gave up waiting at the start: {exc}") from exc
                LOG.info("waiting at the start: %s", exc)
                await asyncio.sleep(min(outage.begin(exc), deadline.remaining_s))

    async def _follow(self, app: ControlApp, topics: set[str]) -> None:
        while not app.should_stop:
            self.is_ready = topics <= app.assigned_topics()
            await asyncio.sleep(_HEARTBEAT_S)
        raise FatalError(f"Faust has ended by itself: {app.crash_reason!r}")

    async def _keep_beating(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_HEARTBEAT_S)


def run(settings: TriggerSettings) -> int:
    """Run the service until SIGTERM or SIGINT, or until an error is fatal.

    Returns
    -------
    The exit code: 0 after a signal, 1 after an error.

    Raises
    ------
    ConfigError
        If a pipeline folder is wrong.
    """
    quieten(settings.log_level)
    pipelines = [load_pipeline(folder) for folder in settings.pipelines]
    return asyncio.run(_serve(settings, pipelines))


async def _serve(settings: TriggerSettings, pipelines: Sequence[LoadedPipeline]) -> int:
    service = Service(settings, pipelines)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    with serve_health(
        settings.metrics_host,
        settings.metrics_port,
        live=lambda: service.is_live,
        ready=lambda: service.is_ready,
        metrics=lambda: generate_latest(service.metrics),
    ):
        await service.run()
    return 0 if service.error is None else 1
