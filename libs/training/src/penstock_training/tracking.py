"""The record of every training: MLflow run, artifact, registered version, alias.

The only module that knows MLflow. What it logs is the ONNX file itself: nothing in the registry is
ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from penstock_schemas.errors import ConfigError, RetryableError

from penstock_training.onnx_export import INPUT, OUTPUT

if TYPE_CHECKING:
    import onnx

CHAMPION: Final = "champion"
ARTIFACT_FILE: Final = "model.onnx"
_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    # The artifact is an ONNX file: whoever serves it does not need our lock.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
}


class TrackingUnavailable(RetryableError):
    """The tracking server does not answer, or refuses for now."""


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What is logged of one training.

    Parameters
    ----------
    params
        Settings of the trainer.
    metrics
        Measured values.
    dataset
        Manifest of the training set, with its sha256.
    model
        The exported model.
    """

    params: Mapping[str, str | int | float]
    metrics: Mapping[str, float]
    dataset: Mapping[str, Any]
    model: onnx.ModelProto


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A version in the registry with the bytes of its artifact.

    Parameters
    ----------
    digest
        ``sha256:<hex>`` of ``onnx_bytes``.
    """

    name: str
    version: str
    run_id: str
    git_commit: str
    onnx_bytes: bytes

    @property
    def digest(self) -> str:
        """Return ``sha256:<hex>`` of the artifact's bytes."""
        return digest_of(self.onnx_bytes)


def digest_of(content: bytes) -> str:
    """Return ``sha256:<hex>``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Tracker:
    """One pipeline's experiment and registered model.

    Parameters
    ----------
    uri
        Tracking server, or a database URI.
    name
        Name of the experiment and of the registered model: the pipeline's.
    """

    def __init__(self, uri: str, name: str) -> None:
        os.environ.update({k: os.environ.get(k, v) for k, v in _ENVIRONMENT.items()})
        self._uri = uri
        self._name = name

    def log(self, record: TrainingRecord, commit: str) -> RegisteredModel:
        """Log a training, register its model and make it champion.

        Raises
        ------
        TrackingUnavailable
            If the server does not answer.
        """
        import mlflow

        with self._translated() as client:
            mlflow.set_experiment(self._name)
            with mlflow.start_run(tags=_tags(self._name, record, commit)) as run:
                mlflow.log_params(dict(record.params))
                mlflow.log_metrics(dict(record.metrics))
                mlflow.log_dict(dict(record.dataset), "dataset.json")
                _log_onnx(record.model, self._name)
            versions = client.search_model_versions(f"name='{self._name}'")
            version = next(v.version for v in versions if v.run_id == run.info.run_id)
            client.set_registered_model_alias(self._name, CHAMPION, version)
        return self.version(str(version))

    def champion(self) -> RegisteredModel | None:
        """Return the version with alias champion, if there is one."""
        with self._translated() as client:
            found = client.search_registered_models(f"name='{self._name}'")
            version = found[0].aliases.get(CHAMPION) if found else None
        return None if version is None else self.version(str(version))

    def version(self, version: str) -> RegisteredModel:
        """Return a registered version with its artifact's bytes.

        Raises
        ------
        TrackingUnavailable
            If the server does not answer, or has no such version.
        ConfigError
            If the version has no ONNX file.
        """
        import mlflow

        with self._translated() as client, TemporaryDirectory() as folder:
            entry = client.get_model_version(self._name, version)
            uri = f"models:/{self._name}/{version}"
            path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
            files = sorted(path.rglob(ARTIFACT_FILE))
            if len(files) != 1:
                raise ConfigError(f"{uri}: expected one {ARTIFACT_FILE}, got {len(files)}")
            content = files[0].read_bytes()
            run = client.get_run(entry.run_id)
        commit = str(run.data.tags.get("git_commit", ""))
        return RegisteredModel(self._name, version, str(entry.run_id), commit, content)

    @contextmanager
    def _translated(self) -> Iterator[Any]:
        """Yield a client; turn what MLflow and its transport raise into our error."""
        import mlflow
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        mlflow.set_tracking_uri(self._uri)
        try:
            yield mlflow.MlflowClient()
        except (MlflowException, RequestException) as exc:
            raise TrackingUnavailable(f"MLflow {self._uri}: {exc}") from exc


def git_commit(folder: Path) -> str:
    """Return the commit of the working copy that ``folder`` is in; empty if there is none."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _tags(name: str, record: TrainingRecord, commit: str) -> dict[str, str]:
    return {
        "pipeline": name,
        "git_commit": commit,
        "dataset_sha256": str(record.dataset["sha256"]),
        "dataset_source": json.dumps(record.dataset.get("source", {})),
    }


def _log_onnx(model: onnx.ModelProto, name: str) -> None:
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
