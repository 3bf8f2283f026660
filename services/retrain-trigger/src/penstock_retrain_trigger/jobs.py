"""The training jobs on Ray: submitted, submitted again, given up, stopped when their request ends.

A job is submitted only when Ray has nothing running of the requests before, so there is never more
than one. How many submissions were ordered is in the topic, one event each; which of them Ray has
is in the job's metadata. Ray refuses a second job under a submission id, which makes submitting
safe to repeat, by this process or by another. What follows for a job is decided in
`penstock_retrain_trigger.resubmission`.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
from penstock_schemas.errors import RetryableError
from penstock_schemas.records import RetrainEvent
from penstock_schemas.retrain_requests import FAILED, RESUBMITTED, Request
from penstock_service.fail_points import FailPoints
from penstock_streaming.timing import Outage

from penstock_retrain_trigger.metrics import TriggerMetrics
from penstock_retrain_trigger.resubmission import Action, Job, Next, next_action
from penstock_retrain_trigger.retrain_log import Decisions
from penstock_retrain_trigger.settings import TriggerSettings

LOG = logging.getLogger(__name__)
LONGEST_WAIT_S: Final = 10.0
JOBS: Final = "/api/jobs/"
SUBMISSION: Final = "penstock.submission"
"""Key of the job's metadata that says which submission of its request it is."""


class JobsUnavailable(RetryableError):
    """Ray does not answer, or not as it should."""


def entry_point(settings: TriggerSettings, request_id: str, folder: Path) -> str:
    """Return the command line of a request's job, for the shell of Ray's host."""
    flags = {
        "request-id": request_id,
        "pipeline-dir": folder,
        "kafka": settings.kafka.bootstrap_servers,
        "registry": settings.registry.url,
        "mlflow": settings.mlflow_url,
        "triton-grpc": settings.triton_grpc,
        "models-dir": settings.models_dir.resolve(),
    }
    nice = ("nice", "-n", str(settings.job_niceness)) if settings.job_niceness else ()
    arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    command = (*nice, settings.job_python, "-m", settings.job_module, *arguments)
    return f"exec {shlex.join(command)}"


def job_request(
    settings: TriggerSettings, request_id: str, folder: Path, submission: int
) -> dict[str, Any]:
    """Return what is posted to Ray for one submission of a request's job."""
    body: dict[str, Any] = {
        "submission_id": request_id,
        "entrypoint": entry_point(settings, request_id, folder),
        "metadata": {SUBMISSION: str(submission)},
        "entrypoint_num_cpus": settings.job_cpus,
    }
    if settings.job_environment:
        variables = {name: v.get_secret_value() for name, v in settings.job_environment.items()}
        body["runtime_env"] = {"env_vars": variables}
    return body


class RayJobs:
    """Client of Ray's job interface; to be used on one event loop.

    Parameters
    ----------
    url
        Address of Ray's dashboard.
    token_path
        File with the bearer token, read at each call: it may appear, or change, while we run.
    timeout_s
        Longest wait for an answer.
    """

    def __init__(self, url: str, token_path: Path | None, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._token_path = token_path
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def find(self, submission_id: str) -> Job | None:
        """Return a job, None if Ray has none under this id.

        Raises
        ------
        JobsUnavailable
            If Ray does not say.
        """
        status, found = await self._call("GET", submission_id)
        if status == HTTPStatus.OK and isinstance(found, dict):
            return _job(found)
        if status != HTTPStatus.NOT_FOUND:
            raise JobsUnavailable(f"Ray answers {status} about job {submission_id}")
        # A dashboard that starts, or another server, answers 404 as well: only the list is a proof.
        for entry in await self._list():
            if entry.get("submission_id") == submission_id:
                return _job(entry)
        return None

    async def submit(self, body: dict[str, Any]) -> bool:
        """Submit a job; return whether it is new: False if there was one under its id.

        Raises
        ------
        JobsUnavailable
            If Ray has not taken it.
        """
        status, answer = await self._call("POST", "", body)
        if status == HTTPStatus.OK:
            return True
        # Ray says "exists already" and "failed" with the same code.
        if await self.find(body["submission_id"]) is not None:
            return False
        raise JobsUnavailable(f"Ray answers {status} to a submission: {_tail(answer)}")

    async def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job; an unknown one is fine."""
        status, answer = await self._call("POST", f"{submission_id}/stop")
        if status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            raise JobsUnavailable(f"Ray answers {status} to a stop: {_tail(answer)}")

    async def delete(self, submission_id: str) -> None:
        """Have Ray forget a job that is over; an unknown one is fine."""
        status, answer = await self._call("DELETE", submission_id)
        if status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            raise JobsUnavailable(f"Ray answers {status} to a deletion: {_tail(answer)}")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _list(self) -> list[dict[str, Any]]:
        status, found = await self._call("GET", "")
        if status != HTTPStatus.OK or not isinstance(found, list):
            raise JobsUnavailable(f"Ray answers {status} instead of its jobs")
        return found

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, Any]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        url = f"{self._url}{JOBS}{path}"
        try:
            async with self._session.request(
                method, url, json=body, headers=self._headers(), allow_redirects=False
            ) as answer:
                is_json = answer.content_type == "application/json"
                content = await answer.json() if is_json else await answer.text()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as exc:
            raise JobsUnavailable(f"{method} {JOBS}{path}: {type(exc).__name__}: {exc}") from exc
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise JobsUnavailable(f"Ray refuses our token ({answer.status}): RAY_AUTH_TOKEN_PATH")
        return answer.status, content

    def _headers(self) -> dict[str, str]:
        if self._token_path is None:
            return {}
        token = self._token_path.read_text("ascii").strip()
        return {"Authorization": f"Bearer {token}"}


def _job(entry: dict[str, Any]) -> Job:
    try:
        return Job(
            status=str(entry["status"]),
            submission=int((entry.get("metadata") or {}).get(SUBMISSION, 1)),
            exit_code=entry.get("driver_exit_code"),
            message=str(entry.get("message") or ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise JobsUnavailable(f"Ray answers with no job: {exc!r}") from exc


def _tail(answer: object) -> str:
    lines = str(answer).strip().splitlines()
    return lines[-1][:300] if lines else ""


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
        self.decisions = decisions
        self._jobs = jobs
        self._metrics = metrics
        self._clock = clock
        self._fail_points = FailPoints()
        self._outage = Outage(LONGEST_WAIT_S, clock)
        self._settled: set[str] = set()
        self._leaving: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        self._due: dict[tuple[str, int], float] = {}

    async def check_jobs(self) -> None:
        """Check each job that may run and do what follows; while Ray is away, wait longer.

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
                # Only the newest is ever in flight, and all before it are settled by now.
                await self._advance(request)
                return
            await self._stop_leftover(request)
            if request.request_id not in self._settled:
                return

    def _unsettled(self) -> list[Request]:
        """Return the accepted requests of which Ray may have a running job, oldest first.

        Before one is submitted all earlier ones are settled; so whatever lies before one that has
        started, or that is settled itself, needs no look.
        """
        found: list[Request] = []
        for request in reversed(self.decisions.ledger.accepted()):
            if request.request_id in self._settled:
                break
            found.append(request)
            if request.is_started:
                break
        return found[::-1]

    async def _stop_leftover(self, request: Request) -> None:
        """Give the job of an ended request time to end by itself, then stop it."""
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

    async def _advance(self, request: Request) -> None:
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
            self._metrics.count_submission("unavailable")
            raise
        self._fail_points.reach("after_submit")
        self._metrics.count_submission("new" if is_new else "known")
        self._seen[name] = ordered
        LOG.info("submission %s of request %s is on Ray", ordered, name)

    async def _conclude(self, request: Request, following: Next, ordered: int) -> None:
        """Write that one more submission is ordered, or that the request has failed."""
        if following.action is Action.ORDER and not self._is_due(request.request_id, ordered):
            return
        # What the job wrote last may not have been read yet.
        await self.decisions.refresh()

        def failure() -> RetrainEvent | None:
            facts = {"reason": following.reason, "job_id": request.request_id}
            return self.decisions.follow(request, FAILED, **facts)

        def order() -> RetrainEvent | None:
            number = ordered + 1
            reason = f"submission {number} of {self._settings.max_submissions}: {following.reason}"
            facts = {"reason": reason, "job_id": request.request_id}
            event = self.decisions.follow(request, RESUBMITTED, **facts)
            return event and replace(event, event_id=f"{event.event_id}.{number}")

        self._fail_points.reach("before_order")
        await self.decisions.write(order if following.action is Action.ORDER else failure)
        self._fail_points.reach("after_order")

    def _is_due(self, name: str, ordered: int) -> bool:
        """Whether the pause before the next submission is over."""
        pause_s = self._settings.resubmit_wait_s * 2.0 ** (ordered - 1)
        due = self._due.setdefault((name, ordered), self._clock() + pause_s)
        return self._clock() >= due
