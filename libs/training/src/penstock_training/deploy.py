"""From a registered model to one that the model server answers with, before any traffic."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq
from penstock_monitoring.reference import SAMPLE_FILE
from penstock_pipelines.loader import LoadedPipeline
from penstock_schemas.errors import ConfigError

from penstock_training.model_server import load, try_out
from penstock_training.onnx_export import onnx_scores
from penstock_training.publish import Deployment, find_template, publish, served_name
from penstock_training.tracking import Tracker
from penstock_training.training_record import RegisteredModel

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
    served_as, config = served_name(model.name, model.version), pipeline.config
    deployment = Deployment(
        served_as=served_as,
        features=len(config.feature_names),
        max_batch_rows=config.model.max_batch_rows,
        onnx_bytes=model.onnx_bytes,
    )
    template = find_template(Path.cwd(), pipeline.folder, Path(__file__))
    publish(server.models_dir, deployment, template)
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
