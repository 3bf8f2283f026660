from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from penstock_retrain_trigger.launcher import JobsUnavailable, RayJobs, job_request
from penstock_retrain_trigger.resubmission import Job
from penstock_retrain_trigger.settings import TriggerSettings

Steps = Callable[[RayJobs], Awaitable[Any]]
Run = Callable[[Steps], Any]


@pytest.fixture
def run(ray: Any, token_path: Path) -> Run:
    """Return a function that runs steps against the server."""

    def go(steps: Steps) -> Any:
        async def all_of_it() -> Any:
            async with ray.serve():
                jobs = RayJobs(ray.url, token_path, 0.5)
                try:
                    return await steps(jobs)
                finally:
                    await jobs.close()

        return asyncio.run(all_of_it())

    return go


def body(name: str = "r1", submission: int = 1) -> dict[str, Any]:
    return job_request(TriggerSettings(), name, Path("/p/fraud"), submission)


def test_entry_point_is_a_command_line_of_the_job() -> None:
    settings = TriggerSettings.model_validate(
        {"job_python": "/venv/bin/python", "mlflow_url": "http://m", "models_dir": "/models"}
    )
    request = job_request(settings, "r1", Path("/pipelines/with space"), 2)
    words = shlex.split(request["entrypoint"])
    assert words[:7] == [
        "exec", "nice", "-n", "10", "/venv/bin/python", "-m", "penstock_training_job",
    ]  # fmt: skip
    given = dict(zip(words[7::2], words[8::2], strict=True))
    assert given["--request-id"] == "r1"
    assert given["--pipeline-dir"] == "/pipelines/with space"
    assert set(given) == {
        f"--{name}"
        for name in (
            "request-id", "pipeline-dir", "kafka", "registry", "mlflow", "triton-grpc",
            "models-dir",
        )
    }  # fmt: skip
    assert request["metadata"] == {"penstock.submission": "2"}
    assert "runtime_env" not in request


def test_variables_of_the_job_are_secret_in_settings_and_plain_for_ray() -> None:
    settings = TriggerSettings.model_validate(
        {"job_environment": {"TOKEN": "x"}, "job_niceness": 0}
    )
    assert "'x'" not in repr(settings)
    request = job_request(settings, "r1", Path("/p"), 1)
    assert request["runtime_env"] == {"env_vars": {"TOKEN": "x"}}
    assert "nice" not in request["entrypoint"]


def test_submitting_twice_gives_one_job(run: Run, ray: Any) -> None:
    async def twice(jobs: RayJobs) -> list[bool]:
        return [await jobs.submit(body()), await jobs.submit(body())]

    assert run(twice) == [True, False]
    assert len(ray.submitted) == 1


def test_job_is_found_with_its_submission_and_its_last_words(run: Run, ray: Any) -> None:
    async def steps(jobs: RayJobs) -> list[Job | None]:
        before = await jobs.find("r1")
        await jobs.submit(body(submission=2))
        during = await jobs.find("r1")
        ray.end("r1", "FAILED", 3, "logs:\nMLflow is away")
        return [before, during, await jobs.find("r1")]

    assert run(steps) == [
        None, Job("RUNNING", 2), Job("FAILED", 2, 3, "logs:\nMLflow is away"),
    ]  # fmt: skip


def test_job_of_another_hand_counts_as_the_first_submission(run: Run, ray: Any) -> None:
    ray.jobs["r1"] = {"status": "RUNNING", "metadata": None, "submission_id": "r1"}
    assert run(lambda jobs: jobs.find("r1")) == Job("RUNNING", 1)


def test_stop_and_delete_of_an_unknown_job_are_fine(run: Run) -> None:
    async def steps(jobs: RayJobs) -> None:
        await jobs.stop("gone")
        await jobs.delete("gone")

    run(steps)


def test_delete_of_a_running_job_is_refused(run: Run) -> None:
    async def steps(jobs: RayJobs) -> None:
        await jobs.submit(body())
        await jobs.delete("r1")

    with pytest.raises(JobsUnavailable, match="non-terminal"):
        run(steps)


@pytest.mark.parametrize("status", [404, 500, 503, 302])
def test_ray_that_is_not_itself_says_nothing_about_jobs(run: Run, ray: Any, status: int) -> None:
    ray.broken = status
    for steps in (lambda jobs: jobs.find("r1"), lambda jobs: jobs.submit(body())):
        with pytest.raises(JobsUnavailable):
            run(steps)


def test_hanging_ray_is_waited_for_no_longer_than_the_timeout(run: Run, ray: Any) -> None:
    ray.hangs = True
    with pytest.raises(JobsUnavailable, match="Timeout"):
        run(lambda jobs: jobs.find("r1"))


def test_refused_token_is_named_and_read_again(run: Run, ray: Any, token_path: Path) -> None:
    good = token_path.read_text()

    async def steps(jobs: RayJobs) -> None:
        token_path.write_text("old")
        with pytest.raises(JobsUnavailable, match="refuses our token"):
            await jobs.find("r1")
        token_path.unlink()
        with pytest.raises(JobsUnavailable, match="FileNotFoundError"):
            await jobs.find("r1")
        token_path.write_text(good)
        assert await jobs.find("r1") is None

    run(steps)


def test_nobody_there_is_an_outage() -> None:
    async def steps() -> None:
        jobs = RayJobs("http://127.0.0.1:9", None, 0.5)
        try:
            await jobs.find("r1")
        finally:
            await jobs.close()

    with pytest.raises(JobsUnavailable):
        asyncio.run(steps())
