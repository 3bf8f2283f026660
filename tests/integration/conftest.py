"""Where the training job finds its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.stack import ModelServer
    from penstock_training_job.workplace import Places


@pytest.fixture(scope="session")
def places(
    kafka_bootstrap: str, registry_url: str, mlflow_url: str, model_server: ModelServer
) -> Places:
    """Return the addresses that the training job is given."""
    from penstock_training_job.workplace import Places

    return Places(kafka_bootstrap, registry_url, mlflow_url, *model_server)
