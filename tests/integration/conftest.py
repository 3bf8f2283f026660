"""The real stack: brought by the caller's environment, or started once per run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.stack import Stack

PORT_OFFSET = 15_000


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Return a running stack.

    PENSTOCK_TEST_STACK names the data directory of one that runs already; it is left running.
    Otherwise one is started on ports of its own and stopped at the end.
    """
    named = os.environ.get("PENSTOCK_TEST_STACK")
    if named:
        yield Stack(Path(named))
        return
    with tempfile.TemporaryDirectory(prefix="penstock-test-") as folder:
        started = Stack.start(Path(folder), PORT_OFFSET)
        try:
            yield started
        finally:
            started.stop()


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
