"""Watches the jobs of one pipeline: submits, submits again, gives up, and sees them out.

A job is submitted only when Ray has nothing running of the requests before: so there is never more
than one. How many submissions were ordered is in the topic, one event each; which of them
Ray has is in the job's metadata.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from penstock_schemas.errors import RetryableError
from penstock_schemas.records import RetrainEvent
from penstock_schemas.retrain_requests import FAILED, RESUBMITTED, Request
from penstock_service.fail_points import FailPoints
from penstock_streaming.timing import Outage

from penstock_retrain_trigger.decisions import Decisions
from penstock_retrain_trigger.launcher import JobsUnavailable, RayJobs, job_request
from penstock_retrain_trigger.metrics import TriggerMetrics
from penstock_retrain_trigger.resubmission import Action, Job, Next, next_action
from penstock_retrain_trigger.settings import TriggerSettings

LOG = logging.getLogger(__name__)

LONGEST_WAIT_S: Final = 10.0


class JobWatch:
    """The jobs of one pipeline; to be used on one event loop, one round at a time.

    Parameters
    ----------
    folder
        The pipeline's folder.
    clock
        Monotonic seconds; a test gives its own.
    """

    def __init__(
        self,
        settings: TriggerSettings,
        folder: Path,
        decisions: Decisions,
        jobs: RayJobs,
        metrics: TriggerMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._folder = folder.resolve()
        self._decisions = decisions
        self._jobs = jobs
        self._metrics = metrics
        self._clock = clock
        self._fail_points = FailPoints()
        self._outage = Outage(LONGEST_WAIT_S, clock)
        self._settled: set[str] = set()
        self._leaving: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        self._due: dict[tuple[str, int], float] = {}

    async def look(self) -> None:
        """Look at each job that may run and do what follows; while Ray is away, wait longer.

        Raises
        ------
        FatalError
            As `Decisions.open`.
        """
        if self._outage.remaining_s > 0:
            return
        try:
            await self._round()
        except RetryableError as exc:
            if not self._outage.is_active:
                LOG.warning("the jobs have to wait: %s", exc)
            self._outage.begin(exc)
        else:
            if self._outage.is_active:
                LOG.info("the jobs go on after %s attempts", self._outage.attempts)
            self._outage.end()

    async def _round(self) -> None:
        waiting = self._unsettled()
        for request in waiting:
            if request.is_in_flight:
                # Only the newest is ever in flight, so all before it are out when it is its turn.
                await self._drive(request)
                return
            await self._see_out(request)
            if request.request_id not in self._settled:
                return

    def _unsettled(self) -> list[Request]:
        """Return the accepted requests of which Ray may have a running job, oldest first.

        Before one is submitted all earlier ones are settled; so whatever lies before one that has
        started, or that is settled itself, needs no look.
        """
        found: list[Request] = []
        for request in reversed(self._decisions.ledger.accepted()):
            if request.request_id in self._settled:
                break
            found.append(request)
            if request.is_started:
                break
        return found[::-1]

    async def _see_out(self, request: Request) -> None:
        """Let the job of an ended request end by itself, or else stop it."""
        name = request.request_id
        job = await self._jobs.find(name)
        if job is None or job.is_over:
            self._settled.add(name)
            self._leaving.pop(name, None)
            return
        since = self._leaving.setdefault(name, self._clock())
        if self._clock() - since >= self._settings.job_leave_s:
            LOG.info("stopping the job of request %s, which is %s", name, request.state)
            await self._jobs.stop(name)

    async def _drive(self, request: Request) -> None:
        name, ordered = request.request_id, max(1, request.submissions)
        job = await self._jobs.find(name)
        if job is not None and job.submission >= ordered:
            self._seen[name] = ordered
        was_seen = self._seen.get(name) == ordered
        following = next_action(request, job, was_seen, self._settings.max_submissions)
        if following.action is Action.SUBMIT:
            await self._submit(request, job, ordered)
        elif following.action is not Action.WAIT:
            await self._conclude(request, following, ordered)

    async def _submit(self, request: Request, job: Job | None, ordered: int) -> None:
        name = request.request_id
        if job is not None:
            await self._jobs.delete(name)
        self._fail_points.reach("before_submit")
        body = job_request(self._settings, name, self._folder, ordered)
        try:
            is_new = await self._jobs.submit(body)
        except JobsUnavailable:
            self._metrics.submission("unavailable")
            raise
        self._fail_points.reach("after_submit")
        self._metrics.submission("new" if is_new else "known")
        self._seen[name] = ordered
        LOG.info("submission %s of request %s is on Ray", ordered, name)

    async def _conclude(self, request: Request, following: Next, ordered: int) -> None:
        """Order one more submission, or say that the request has failed."""
        if following.action is Action.ORDER and not self._is_due(request.request_id, ordered):
            return
        # The last thing that the job wrote may not have come to us yet.
        await self._decisions.refresh()

        def failure() -> RetrainEvent | None:
            facts = {"reason": following.reason, "job_id": request.request_id}
            return self._decisions.follow(request, FAILED, **facts)

        def order() -> RetrainEvent | None:
            number = ordered + 1
            reason = f"submission {number} of {self._settings.max_submissions}: {following.reason}"
            facts = {"reason": reason, "job_id": request.request_id}
            event = self._decisions.follow(request, RESUBMITTED, **facts)
            return event and replace(event, event_id=f"{event.event_id}.{number}")

        self._fail_points.reach("before_order")
        await self._decisions.write(order if following.action is Action.ORDER else failure)
        self._fail_points.reach("after_order")

    def _is_due(self, name: str, ordered: int) -> bool:
        """Tell whether the pause before the next submission is over."""
        pause_s = self._settings.resubmit_wait_s * 2.0 ** (ordered - 1)
        due = self._due.setdefault((name, ordered), self._clock() + pause_s)
        return self._clock() >= due
