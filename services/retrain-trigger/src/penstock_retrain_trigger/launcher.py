"""The training job on Ray: how it is called, and Ray's REST interface for jobs.

A submission id is taken once: Ray refuses a second job under it, which makes submitting safe to
repeat, by this process or by another.
"""

from __future__ import annotations

import shlex
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
from penstock_schemas.errors import RetryableError

from penstock_retrain_trigger.resubmission import Job
from penstock_retrain_trigger.settings import TriggerSettings

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
        # A dashboard that starts, or another server, says 404 as well: only the list is a proof.
        for entry in await self._list():
            if entry.get("submission_id") == submission_id:
                return _job(entry)
        return None

    async def submit(self, body: dict[str, Any]) -> bool:
        """Submit a job; tell whether it is new: False if there was one under its id.

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
