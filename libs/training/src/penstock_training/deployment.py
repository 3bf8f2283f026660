"""From a registered model to one that the model server answers with, before any traffic.

Publish the version beside the others, have the server load it, and compare its scores on rows of
the training's reference sample with those of the registered file.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from penstock_monitoring.reference import SAMPLE_FILE
from penstock_pipelines.loader import LoadedPipeline
from penstock_schemas.errors import ConfigError, ModelUnavailable
from penstock_schemas.records import ModelVersion

from penstock_training.onnx_export import INPUT, OUTPUT, TOLERANCE, ParityError, onnx_scores
from penstock_training.publish import Deployment, find_template, publish, served_name
from penstock_training.tracking import RegisteredModel, Tracker
from penstock_training.trainers import Matrix, Vector

_TRIED_ROWS: Final = 32


@dataclass(frozen=True, slots=True)
class ModelServer:
    """Where a version is brought to.

    Parameters
    ----------
    triton_grpc
        host:port.
    models_dir
        The server's repository.
    """

    triton_grpc: str
    models_dir: Path


def deploy(
    server: ModelServer, pipeline: LoadedPipeline, tracker: Tracker, model: RegisteredModel
) -> None:
    """Publish a version beside the others, have it loaded, and try it on rows of its reference.

    Raises
    ------
    ConfigError
        If the version is published with another model, or its run has no sample.
    ModelUnavailable
        If the model server does not answer, or does not load it.
    ParityError
        If the server's scores are not the model's.
    """
    import pyarrow.parquet as pq

    config = pipeline.config
    served_as = publish_version(server.models_dir, pipeline, model)
    load(server.triton_grpc, served_as)
    content = tracker.file(model.run_id, SAMPLE_FILE)
    if content is None:
        raise ConfigError(f"run {model.run_id} has no artifact {SAMPLE_FILE}")
    sample = pq.read_table(io.BytesIO(content))
    frame = sample.select(config.feature_names).slice(
        0, min(_TRIED_ROWS, config.model.max_batch_rows)
    )
    matrix = frame.to_pandas().to_numpy(dtype="float32")
    try_out(server.triton_grpc, served_as, matrix, onnx_scores(model.onnx_bytes, matrix))


LOAD_TIMEOUT_S: Final = 60.0
_CALL_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.1


def publish_version(models_dir: Path, pipeline: LoadedPipeline, model: RegisteredModel) -> str:
    """Publish a registered version in the server's repository and return its name there.

    Raises
    ------
    ConfigError
        If the version is published with another model.
    """
    deployment = Deployment(
        served_as=served_name(model.name, model.version),
        features=len(pipeline.config.feature_names),
        max_batch_rows=pipeline.config.model.max_batch_rows,
        onnx_bytes=model.onnx_bytes,
    )
    publish(models_dir, deployment, find_template(Path.cwd(), pipeline.folder, Path(__file__)))
    return deployment.served_as


def load(triton_grpc: str, served_as: str, timeout_s: float = LOAD_TIMEOUT_S) -> None:
    """Have the server load a version and wait until it is ready.

    Parameters
    ----------
    triton_grpc
        host:port.

    Raises
    ------
    ModelUnavailable
        If the server does not have it ready in time.
    """
    deadline = time.monotonic() + timeout_s
    with _client(triton_grpc, served_as) as client:
        _wait(client.is_server_ready, deadline, f"model server {triton_grpc} is not ready")
        left = max(1.0, deadline - time.monotonic())
        client.load_model(served_as, client_timeout=left)
        _wait(
            lambda client_timeout: client.is_model_ready(served_as, client_timeout=client_timeout),
            deadline,
            f"model {served_as} is not ready on {triton_grpc}",
        )


def unload(triton_grpc: str, served_as: str) -> None:
    """Have the server drop a version; nothing happens where it has none of that name.

    Raises
    ------
    ModelUnavailable
        If the server does not answer.
    """
    with _client(triton_grpc, served_as) as client:
        if client.is_model_ready(served_as, client_timeout=_CALL_TIMEOUT_S):
            client.unload_model(served_as, client_timeout=_CALL_TIMEOUT_S)


def try_out(triton_grpc: str, served_as: str, matrix: Matrix, expected: Vector) -> None:
    """Have a loaded version score real rows before traffic reaches it.

    Parameters
    ----------
    matrix
        At most as many rows as the version takes at once, shape (n, d).
    expected
        Its scores as computed elsewhere, shape (n,).

    Raises
    ------
    ModelUnavailable
        If the server does not answer.
    ParityError
        If it answers otherwise.
    """
    import tritonclient.grpc as triton

    tensor = triton.InferInput(INPUT, list(matrix.shape), "FP32")
    tensor.set_data_from_numpy(np.ascontiguousarray(matrix, dtype=np.float32))
    with _client(triton_grpc, served_as) as client:
        answer = client.infer(served_as, [tensor], client_timeout=_CALL_TIMEOUT_S)
    difference = float(np.abs(answer.as_numpy(OUTPUT)[:, 0] - expected).max())
    if not difference <= TOLERANCE:
        raise ParityError(f"model {served_as}: the server's scores differ by {difference:.2e}")


@contextmanager
def _client(triton_grpc: str, served_as: str) -> Iterator[Any]:
    """Yield a client of the server; what it raises is about that model."""
    import tritonclient.grpc as triton

    with _translated(f"model server {triton_grpc}, model {served_as}"):
        client: Any = triton.InferenceServerClient(triton_grpc)
        try:
            yield client
        finally:
            client.close()


def _wait(probe: Any, deadline: float, what: str) -> None:
    from tritonclient.utils import InferenceServerException

    while True:
        try:
            if probe(client_timeout=_CALL_TIMEOUT_S):
                return
        except InferenceServerException:
            if time.monotonic() >= deadline:
                raise
        if time.monotonic() >= deadline:
            raise ModelUnavailable(what)
        time.sleep(_POLL_S)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as exc:
        raise ModelUnavailable(f"{what}: {exc.message()}") from exc


def routed(model: RegisteredModel, alias: str, weight: int, state: str) -> ModelVersion:
    """Return the entry of a registered model.

    Parameters
    ----------
    weight
        Share of the keys, percent.
    state
        serving, canary, shadow, draining or retired.
    """
    return ModelVersion(
        model_name=model.name,
        version=model.version,
        served_as=served_name(model.name, model.version),
        alias=alias,
        weight=weight,
        digest=model.digest,
        run_id=model.run_id,
        state=state,
        git_commit=model.git_commit,
    )
