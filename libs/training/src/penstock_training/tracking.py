"""The record of every training in MLflow: run, artifacts, registered version, alias.

The only module that knows MLflow. What it logs is the ONNX file itself: nothing in the registry is
ever unpickled. Each step may be repeated: a run is found again by the request that it belongs to,
and a run has one registered version at most.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from penstock_schemas.errors import ConfigError, RetryableError

from penstock_training.onnx_export import INPUT, OUTPUT

if TYPE_CHECKING:
    import onnx

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
REQUEST_TAG: Final = "penstock.request_id"
"""Tag of a run: the request that it belongs to."""
DATASET_FILE: Final = "dataset.json"
"""Artifact: the manifest of the training set."""
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


class Tracker:
    """One pipeline's experiment and registered model.

    Parameters
    ----------
    uri
        Tracking server, or a database URI.
    name
        Name of the experiment and of the registered model: the pipeline's.

    Every method raises TrackingUnavailable if the server does not answer.
    """

    def __init__(self, uri: str, name: str) -> None:
        os.environ.update({k: os.environ.get(k, v) for k, v in _ENVIRONMENT.items()})
        self._uri = uri
        self._name = name

    def log(
        self,
        record: TrainingRecord,
        commit: str,
        *,
        alias: str = CHAMPION,
        tags: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> RegisteredModel:
        """Log a training, register its model and give it an alias.

        Parameters
        ----------
        tags
            Further tags of the run.
        request_id
            The run of this request is continued, and its version returned if it has one; without
            it the run is a new one.
        """
        run_id = self.run_of(request_id, {**(tags or {}), "git_commit": commit})
        self.log_training(run_id, record)
        return self.register(run_id, record, alias)

    def run_of(self, request_id: str | None, tags: Mapping[str, str]) -> str:
        """Return the id of a request's run, which is made if there is none."""
        import mlflow

        with self._translated() as client:
            experiment = mlflow.set_experiment(self._name).experiment_id
            if request_id is not None:
                which = f"tags.`{REQUEST_TAG}` = '{request_id}'"
                found = client.search_runs([experiment], which, order_by=["start_time ASC"])
                if found:
                    return str(found[0].info.run_id)
                tags = {**tags, REQUEST_TAG: request_id}
            tags = {"pipeline": self._name, **tags}
            made = client.create_run(experiment, tags=tags, run_name=request_id)
            return str(made.info.run_id)

    def log_training(self, run_id: str, record: TrainingRecord) -> None:
        """Log parameters, metrics, manifest and files of a training; repeating it is harmless."""
        from mlflow.entities import Metric, Param, RunTag

        with self._translated() as client:
            there = client.get_run(run_id).data.params
            params = [Param(k, str(v)) for k, v in record.params.items() if k not in there]
            metrics = [Metric(k, v, _now_ms(), 0) for k, v in record.metrics.items()]
            tags = [RunTag(k, v) for k, v in _dataset_tags(record.dataset).items()]
            client.log_batch(run_id, metrics, params, tags)
            dataset = {DATASET_FILE: json.dumps(dict(record.dataset), indent=1).encode()}
            log_files(client, run_id, {**dataset, **record.artifacts})

    def register(self, run_id: str, record: TrainingRecord, alias: str) -> RegisteredModel:
        """Register the model of a run, unless it is, give the version an alias, end the run."""
        import mlflow

        with self._translated() as client:
            version = self._version_of(client, run_id)
            if version is None:
                with mlflow.start_run(run_id):
                    log_onnx(record.model, self._name)
                version = self._version_of(client, run_id)
            client.set_registered_model_alias(self._name, alias, version)
        return self.version(str(version))

    def registered(self, run_id: str) -> RegisteredModel | None:
        """Return the version made by a run, if there is one."""
        with self._translated() as client:
            version = self._version_of(client, run_id)
        return None if version is None else self.version(version)

    def champion(self) -> RegisteredModel | None:
        """Return the version with alias champion, if there is one."""
        with self._translated() as client:
            found = client.search_registered_models(f"name='{self._name}'")
            version = found[0].aliases.get(CHAMPION) if found else None
        return None if version is None else self.version(str(version))

    def versions(self) -> list[str]:
        """Return the numbers of the registered versions, oldest first."""
        with self._translated() as client:
            found = client.search_model_versions(f"name='{self._name}'")
        return sorted((str(v.version) for v in found), key=int)

    def version(self, version: str) -> RegisteredModel:
        """Return a registered version with its artifact's bytes.

        Raises
        ------
        TrackingUnavailable
            Also if there is no such version.
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

    def set_alias(self, version: str, alias: str) -> None:
        """Give a version an alias, which another version then loses."""
        with self._translated() as client:
            client.set_registered_model_alias(self._name, alias, version)

    def drop_alias(self, version: str, alias: str) -> None:
        """Take an alias from a version; nothing happens where another version has it."""
        with self._translated() as client:
            model = client.get_registered_model(self._name)
            if str(model.aliases.get(alias)) == version:
                client.delete_registered_model_alias(self._name, alias)

    def note(self, run_id: str, tags: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Add tags and metrics to a run, at once; a later value replaces an earlier one."""
        from mlflow.entities import Metric, RunTag

        with self._translated() as client:
            values = [Metric(k, v, _now_ms(), 0) for k, v in metrics.items()]
            client.log_batch(run_id, values, [], [RunTag(k, v) for k, v in tags.items()])

    def notes(self, run_id: str) -> tuple[dict[str, str], dict[str, float]]:
        """Return tags and metrics of a run."""
        with self._translated() as client:
            data = client.get_run(run_id).data
            return dict(data.tags), dict(data.metrics)

    def log_file(self, run_id: str, name: str, content: bytes) -> None:
        """Put a file among a run's artifacts."""
        with self._translated() as client:
            log_files(client, run_id, {name: content})

    def file(self, run_id: str, name: str) -> bytes | None:
        """Return a file of a run's artifacts; None if it is not there."""
        with self._translated() as client:
            return read_file(client, run_id, name)

    def fail(self, run_id: str) -> None:
        """End a run as failed."""
        with self._translated() as client:
            client.set_terminated(run_id, "FAILED")

    def _version_of(self, client: Any, run_id: str) -> str | None:
        which = f"name='{self._name}' and run_id='{run_id}'"
        return next((str(v.version) for v in client.search_model_versions(which)), None)

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


def _dataset_tags(dataset: Mapping[str, Any]) -> dict[str, str]:
    return {
        "dataset_sha256": str(dataset["sha256"]),
        "dataset_source": json.dumps(dataset.get("source", {}))[:5000],  # the most a tag holds
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


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
    artifacts
        Files of the run, by name: reference, plots.
    """

    params: Mapping[str, str | int | float]
    metrics: Mapping[str, float]
    dataset: Mapping[str, Any]
    model: onnx.ModelProto
    artifacts: Mapping[str, bytes] = field(default_factory=dict)


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
