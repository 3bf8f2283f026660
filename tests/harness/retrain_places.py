"""Where a test of the training job finds its infrastructure, and what it looks at there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from penstock_schemas.records import RoutingState
from penstock_training_job.workplace import Places


def find_places(request: pytest.FixtureRequest) -> Places:
    """Return where everything is: PENSTOCK_TEST_MLFLOW and _TRITON, else the stack's."""
    kafka = str(request.getfixturevalue("kafka_bootstrap"))
    registry = str(request.getfixturevalue("registry_url"))
    url, triton = os.environ.get("PENSTOCK_TEST_MLFLOW"), os.environ.get("PENSTOCK_TEST_TRITON")
    if url and triton:  # host:port,repository
        grpc, _, models_dir = triton.partition(",")
        return Places(kafka, registry, url, grpc, Path(models_dir))
    stack = request.getfixturevalue("stack")
    return Places(kafka, registry, stack.mlflow_url, stack.triton_grpc_url, stack.models_dir)


def shape(state: RoutingState) -> list[tuple[str, str, int, str]]:
    """Return version, alias, weight and state of each version."""
    return [(v.version, v.alias, v.weight, v.state) for v in state.versions]


def loaded(places: Places, served_as: str) -> bool:
    """Tell whether the model server has a version ready."""
    import tritonclient.grpc as triton

    client: Any = triton.InferenceServerClient(places.triton_grpc)
    try:
        return bool(client.is_model_ready(served_as))
    finally:
        client.close()
