"""What every test gets: a clean environment and seeds that can be read in the report."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

KEPT = ("PENSTOCK_TEST_", "PENSTOCK_DATASETS")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the caller's settings, so that a test sees only what it sets itself."""
    for name in list(os.environ):
        if name == "MODEL_THRESHOLD" or (
            name.startswith("PENSTOCK_") and not name.startswith(KEPT)
        ):
            monkeypatch.delenv(name)


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


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """In CI a skip is a failure: what was not run has not passed."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
