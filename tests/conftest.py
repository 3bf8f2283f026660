"""What every test gets: a clean environment, printed seeds, and one real stack per run."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

# Its plugin imports it when the run ends, and two threads that parse at once fail on CPython 3.11
# (cpython issue 106905): libraries leave threads behind.
import hypothesis  # noqa: F401
import numpy as np
import pytest
import yaml
from harness.stack import (
    ModelServer,
    Stack,
    a_stack_starts,
    free_offset,
    infrastructure,
    is_setting,
)
from harness.waiting import Background, background_calls

FRAUD = Path(__file__).parents[1] / "pipelines" / "fraud"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the caller's settings, so that a test sees only what it sets itself."""
    for name in filter(is_setting, list(os.environ)):
        monkeypatch.delenv(name)
    # Set by code under test for good, in a process that is its own; here other tests follow.
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Return the seed of this test: PENSTOCK_TEST_SEED, or one drawn anew; printed on failure."""
    named = os.environ.get("PENSTOCK_TEST_SEED")
    value = int(named) if named else random.SystemRandom().randrange(2**31)
    print(f"seed of {request.node.name}: {value}")  # noqa: T201 - shown with a failed test
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """Return a generator of the test's seed."""
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a second pipeline, which the stack runs beside fraud."""
    from harness.models import write_folder  # with ONNX, which most tests do without

    return write_folder(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(scope="session")
def fraud_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the fraud pipeline without retraining: tests send it what no customer would."""
    copy = tmp_path_factory.mktemp("pipelines") / "fraud"
    shutil.copytree(FRAUD, copy)
    file = copy / "pipeline.yaml"
    document = yaml.safe_load(file.read_text())
    document["retrain"]["enabled"] = False
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return copy


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, fraud_folder: Path, tiny_folder: Path) -> Iterator[Stack]:
    """Return a running stack.

    PENSTOCK_TEST_STACK names the data directory of one that runs already; it is left running.
    Otherwise one is started on ports of its own and stopped at the end: the infrastructure, and the
    services too if a test marked e2e is to run. The others start what they need of them.
    """
    named = os.environ.get("PENSTOCK_TEST_STACK")
    if named:
        yield Stack(Path(named))
        return
    with_services = any(item.get_closest_marker("e2e") for item in request.session.items)
    with tempfile.TemporaryDirectory(prefix="penstock-test-") as folder:
        data_dir, offset = Path(folder), free_offset()
        with ExitStack() as running:
            with a_stack_starts():
                started = running.enter_context(
                    Stack.running(data_dir, offset, (fraud_folder, tiny_folder))
                    if with_services
                    else infrastructure(data_dir, offset)
                )
            yield started
        assert not started.left(), f"what was stopped leaves processes: {started.left()}"


@pytest.fixture(scope="session")
def kafka_bootstrap(request: pytest.FixtureRequest) -> str:
    """Return bootstrap servers: PENSTOCK_TEST_KAFKA, else the stack's."""
    named = os.environ.get("PENSTOCK_TEST_KAFKA")
    return named or str(request.getfixturevalue("stack").kafka_bootstrap)


@pytest.fixture(scope="session")
def registry_url(request: pytest.FixtureRequest) -> str:
    """Return the registry's base URL: PENSTOCK_TEST_REGISTRY, else the stack's."""
    named = os.environ.get("PENSTOCK_TEST_REGISTRY")
    return named or str(request.getfixturevalue("stack").registry_url)


@pytest.fixture(scope="session")
def mlflow_url(request: pytest.FixtureRequest) -> str:
    """Return the tracking server's URL: PENSTOCK_TEST_MLFLOW, else the stack's."""
    named = os.environ.get("PENSTOCK_TEST_MLFLOW")
    return named or str(request.getfixturevalue("stack").mlflow_url)


@pytest.fixture(scope="session")
def model_server(request: pytest.FixtureRequest) -> ModelServer:
    """Return Triton: PENSTOCK_TEST_TRITON (host:port,repository), else the stack's."""
    named = os.environ.get("PENSTOCK_TEST_TRITON")
    if named:
        grpc, _, models_dir = named.partition(",")
        return ModelServer(grpc, Path(models_dir))
    found: ModelServer = request.getfixturevalue("stack").model_server
    return found


@pytest.fixture
def in_background() -> Iterator[Background]:
    """Return a function that runs a call in a thread; at the end all of them have ended well."""
    with background_calls() as start:
        yield start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skip is a failure: what was not run has not passed."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
