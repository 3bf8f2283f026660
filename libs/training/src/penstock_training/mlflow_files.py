"""Files of MLflow runs, and models among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock_training.onnx_export import INPUT, OUTPUT

if TYPE_CHECKING:
    import onnx

ARTIFACT_FILE: Final = "model.onnx"


def log_files(client: Any, run_id: str, files: Mapping[str, bytes]) -> None:
    """Put files among a run's artifacts; one of the same name is replaced."""
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        client.log_artifacts(run_id, folder)


def read_file(client: Any, run_id: str, name: str) -> bytes | None:
    """Return a file of a run's artifacts; None if it is not there."""
    if all(entry.path != name for entry in client.list_artifacts(run_id)):
        return None
    with TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, name, folder)).read_bytes()


def log_onnx(model: onnx.ModelProto, name: str) -> None:
    """Log a model to the active run and register it as a new version of ``name``."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    features = model.graph.input[0].type.tensor_type.shape.dim[-1].dim_value
    kind = np.dtype(np.float32)
    mlflow.onnx.log_model(
        model,
        name="model",
        registered_model_name=name,
        signature=ModelSignature(
            inputs=Schema([TensorSpec(kind, (-1, features), INPUT)]),
            outputs=Schema([TensorSpec(kind, (-1, 1), OUTPUT)]),
        ),
        pip_requirements=["onnxruntime"],  # given, or MLflow spends seconds to infer them
        save_as_external_data=False,  # one file: its digest is the model's
        await_registration_for=20,
    )
