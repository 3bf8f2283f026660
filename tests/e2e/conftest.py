"""The fraud pipeline on the real stack, left as healthy as it was found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from harness.clients import ProducerApp
from harness.judges import LedgerRun
from harness.stack import Stack
from harness.waiting import eventually

ROOT = Path(__file__).parents[2]
RECOVERY_S = 90.0


@pytest.fixture(scope="session")
def event_count() -> int:
    """Return the events of a full run: PENSTOCK_TEST_EVENTS, else the issue's 100,000."""
    return int(os.environ.get("PENSTOCK_TEST_EVENTS", "100000"))


@pytest.fixture
def fraud(stack: Stack, kafka_bootstrap: str, registry_url: str) -> Iterator[LedgerRun]:
    """Return a window of the fraud pipeline, opened at rest; afterwards the stack is well again."""
    run = LedgerRun(kafka_bootstrap, registry_url, "fraud")
    run.drain(RECOVERY_S)
    run = LedgerRun(kafka_bootstrap, registry_url, "fraud")
    yield run
    eventually(lambda: not stack.unwell(), RECOVERY_S, "every component is ready again")
    run.drain(RECOVERY_S)


@pytest.fixture(scope="session")
def cards(stack: Stack, kafka_bootstrap: str, registry_url: str) -> ProducerApp:
    """Return a producer of card transactions."""
    return ProducerApp(
        kafka_bootstrap,
        registry_url,
        "fraud.events.v1",
        ROOT / "pipelines" / "fraud" / "event.avsc",
        "account_id",
    )


@pytest.fixture(scope="session")
def feature_names() -> list[str]:
    """Return the names of the fraud pipeline's features, in the order of the vector."""
    config = yaml.safe_load((ROOT / "pipelines" / "fraud" / "pipeline.yaml").read_text())
    return [
        name
        for feature in config["features"]
        for name in (
            [f"{feature['name']}={value}" for value in feature["values"]]
            if feature.get("transform") == "one_hot"
            else [feature["name"]]
        )
    ]
