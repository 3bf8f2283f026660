"""Give a pipeline its first model: ``python -m penstock_training.first_model``.

Idempotent, and resumable at any point: what is routed is loaded again; what is registered is
published; only where there is nothing is a model trained.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_schemas.errors import ConfigError, PenstockError, RetryableError
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_streaming.registry import RegistryClient, RegistrySettings
from penstock_streaming.routing_topic import RoutingTopic
from penstock_streaming.settings import KafkaSettings

from penstock_training.publish import (
    Deployment,
    find_template,
    load,
    publish,
    published_digest,
    served_name,
)
from penstock_training.tracking import RegisteredModel, Tracker, git_commit

LOG = logging.getLogger("penstock.first_model")
_ROUTING_TIMEOUT_S = 30.0
_WRITER = "first-model"


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is.

    Parameters
    ----------
    feast_dir
        Root of the Feast repositories, one folder per pipeline.
    """

    kafka: str
    registry: str
    mlflow: str
    triton_grpc: str
    models_dir: Path
    feast_dir: Path


def provide_first_model(pipeline_dir: Path, places: Places) -> RoutingState:
    """Make sure that the pipeline's champion is trained, registered, loaded and routed.

    Returns
    -------
    The routing state in force.

    Raises
    ------
    ConfigError
        If the pipeline, its data or its published files are wrong.
    RetryableError
        If something it needs does not answer.
    """
    pipeline = load_pipeline(pipeline_dir)
    name = pipeline.config.pipeline
    _prepare_features(pipeline, places.feast_dir / name)
    topic = RoutingTopic(
        KafkaSettings(bootstrap_servers=places.kafka),
        RegistryClient(RegistrySettings(url=places.registry)),
        pipeline.config.topic_names.models,
        name,
    )
    tracker = Tracker(places.mlflow, name)
    state = topic.latest(_ROUTING_TIMEOUT_S)
    if state is not None and state.champion is not None:
        _restore(pipeline, places, tracker, state)
        return state
    model = tracker.champion() or _train(pipeline, tracker)
    served_as = _deploy(pipeline, places, model)
    state = topic.write(lambda now: _first_state(now, model, served_as), _ROUTING_TIMEOUT_S)
    LOG.info("pipeline %s serves version %s (%s)", name, model.version, model.digest)
    return state


def _prepare_features(pipeline: LoadedPipeline, repo_dir: Path) -> None:
    """Apply the Feast definitions; fill in the profiles where the store is new."""
    if pipeline.config.feast is None:
        return
    from penstock_features.feast_repo import ONLINE_DB, apply_definitions, load_profiles

    from penstock_training.training_set import profiles

    marker = repo_dir / "profiles.loaded"
    apply_definitions(pipeline.folder, repo_dir)
    frame = profiles(pipeline)
    # Only once: a value changed since then by someone else must stay.
    if frame is None or (marker.exists() and (repo_dir / ONLINE_DB).exists()):
        return
    views = {f.feast.split(":")[0] for f in pipeline.config.features if f.feast}
    for view in sorted(views):
        load_profiles(repo_dir, view, frame)
    marker.touch()
    LOG.info("loaded %d profiles", len(frame))


def _train(pipeline: LoadedPipeline, tracker: Tracker) -> RegisteredModel:
    from penstock_training.training import train

    began = time.monotonic()
    record = train(pipeline)
    LOG.info(
        "trained in %.1f s: AUC %.4f, parity %.1e",
        time.monotonic() - began,
        record.metrics.get("auc", float("nan")),
        record.metrics["parity_max_abs_diff"],
    )
    return tracker.log(record, git_commit(pipeline.folder))


def _deploy(pipeline: LoadedPipeline, places: Places, model: RegisteredModel) -> str:
    served_as = served_name(model.name, model.version)
    deployment = Deployment(
        served_as=served_as,
        features=len(pipeline.config.feature_names),
        max_batch_rows=pipeline.config.model.max_batch_rows,
        onnx_bytes=model.onnx_bytes,
    )
    template = find_template(Path.cwd(), pipeline.folder, Path(__file__))
    publish(places.models_dir, deployment, template)
    load(places.triton_grpc, served_as)
    return served_as


def _restore(
    pipeline: LoadedPipeline, places: Places, tracker: Tracker, state: RoutingState
) -> None:
    """Have every routed version loaded again, from its files or, if these are gone, from MLflow."""
    for version in state.versions:
        if version.state == "retired":
            continue
        there = published_digest(places.models_dir, version.served_as)
        if there == version.digest:
            load(places.triton_grpc, version.served_as)
            LOG.info("loaded %s again", version.served_as)
            continue
        if there is not None:
            raise ConfigError(
                f"{places.models_dir / version.served_as}: digest is {there}, "
                f"but {version.digest} was published; restore the file or promote another version"
            )
        model = tracker.version(version.version)
        if model.digest != version.digest:
            raise ConfigError(
                f"MLflow {version.model_name}/{version.version}: digest is {model.digest}, "
                f"but {version.digest} is routed"
            )
        _deploy(pipeline, places, model)
        LOG.info("published %s again from MLflow", version.served_as)


def _first_state(now: RoutingState | None, model: RegisteredModel, served_as: str) -> RoutingState:
    if now is not None and now.champion is not None:
        return now  # somebody was faster
    version = ModelVersion(
        model_name=model.name,
        version=model.version,
        served_as=served_as,
        alias="champion",
        weight=100,
        digest=model.digest,
        run_id=model.run_id,
        state="serving",
        git_commit=model.git_commit,
    )
    return RoutingState(
        pipeline=model.name,
        revision=1 if now is None else now.revision + 1,
        updated_at=time.time_ns() // 1_000_000,
        updated_by=_WRITER,
        versions=(version,),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Give a pipeline its first model.")
    parser.add_argument("--pipeline-dir", type=Path, required=True)
    parser.add_argument("--kafka", required=True, help="host:port,…")
    parser.add_argument("--registry", required=True, help="URL of a Confluent-compatible API")
    parser.add_argument("--mlflow", required=True, help="tracking URI")
    parser.add_argument("--triton-grpc", required=True, help="host:port")
    parser.add_argument("--models-dir", type=Path, required=True)
    parser.add_argument("--feast-dir", type=Path, required=True)
    return parser.parse_args()


def main() -> int:
    """Run the job; 0 ok, 1 failed, 3 something does not answer."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    values = vars(_arguments())
    pipeline_dir = values.pop("pipeline_dir")
    try:
        provide_first_model(pipeline_dir, Places(**values))
    except PenstockError as exc:
        LOG.error("%s", exc)
        return 3 if isinstance(exc, RetryableError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
