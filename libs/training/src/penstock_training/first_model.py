"""Give a pipeline its first model: ``python -m penstock_training.first_model``.

Idempotent, and resumable at any point: what is routed is loaded again; what is registered is
published; only where there is nothing is a model trained. Feast's definitions are applied, and
profiles filled in, where the online store is new.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from penstock_pipelines.loader import DEFINITIONS_FILE, LoadedPipeline, load_pipeline
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_routing.topic import RoutingTopic
from penstock_schemas.errors import ConfigError, PenstockError, RetryableError
from penstock_schemas.records import RoutingState
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

from penstock_training.deployment import load, publish_version, routed
from penstock_training.publish import (
    MODEL_FILE,
    published_digest,
    served_name,
)
from penstock_training.tracking import RegisteredModel, Tracker, TrainingRecord, git_commit

T = TypeVar("T")

LOG = logging.getLogger("penstock.first_model")
_CALL_TIMEOUT_S = 20.0
_LOAD_TIMEOUT_S = 30.0
_WRITER = "first-model"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything is.

    Parameters
    ----------
    feast_dir
        Root of the Feast repositories, one folder per pipeline.
    wait_s
        Longest wait for all that must answer, seconds.
    """

    kafka: str
    registry: str
    mlflow: str
    triton_grpc: str
    models_dir: Path
    feast_dir: Path
    wait_s: float = 180.0


def provide_first_model(pipeline_dir: Path, places: Addresses) -> RoutingState:
    """Make sure that the pipeline's champion is trained, registered, loaded and routed.

    What needs nobody else (features, training) comes first, so that the job may start together
    with everything that it needs.

    Returns
    -------
    The routing state in force.

    Raises
    ------
    ConfigError
        If the pipeline, its data or its published files are wrong.
    RetryableError
        If something it needs does not answer in time.
    """
    pipeline = load_pipeline(pipeline_dir)
    name = pipeline.config.pipeline
    deadline = Deadline(places.wait_s)
    prepare_features(pipeline, places.feast_dir / name)
    is_new = not any(places.models_dir.glob(f"{served_name(name, '*')}/{MODEL_FILE}"))
    record = _train(pipeline) if is_new else None
    topic = RoutingTopic(
        KafkaSettings(bootstrap_servers=places.kafka),
        RegistryClient(RegistrySettings(url=places.registry)),
        pipeline.config.topic_names.models,
        name,
    )
    tracker = Tracker(places.mlflow, name)
    state = _patiently(lambda: topic.latest(_CALL_TIMEOUT_S), deadline)
    if state is not None and state.champion is not None:
        _restore(pipeline, places, tracker, state, deadline)
        return state
    model = _patiently(tracker.champion, deadline)
    if model is None:
        record = record or _train(pipeline)
        model = tracker.log(record, git_commit(pipeline.folder))
    _deploy(pipeline, places, model, deadline)
    state = _patiently(
        lambda: topic.write(lambda now: _first_state(now, model), _CALL_TIMEOUT_S), deadline
    )
    LOG.info("pipeline %s serves version %s (%s)", name, model.version, model.digest)
    return state


def _patiently(call: Callable[[], T], deadline: Deadline) -> T:
    """Repeat a call while what it needs does not answer and time is left."""
    while True:
        try:
            return call()
        except RetryableError as exc:
            if deadline.remaining_s <= exc.retry_after_s:
                raise
            LOG.info("waiting: %s", exc)
            time.sleep(exc.retry_after_s)


def _train(pipeline: LoadedPipeline) -> TrainingRecord:
    from penstock_training.training import train

    began = time.monotonic()
    record = train(pipeline)
    LOG.info(
        "trained in %.1f s: AUC %.4f, parity %.1e",
        time.monotonic() - began,
        record.metrics.get("auc", float("nan")),
        record.metrics["parity_max_abs_diff"],
    )
    return record


def _deploy(
    pipeline: LoadedPipeline, places: Addresses, model: RegisteredModel, deadline: Deadline
) -> None:
    served_as = publish_version(places.models_dir, pipeline, model)
    _patiently(lambda: load(places.triton_grpc, served_as, _LOAD_TIMEOUT_S), deadline)


def _restore(
    pipeline: LoadedPipeline,
    places: Addresses,
    tracker: Tracker,
    state: RoutingState,
    deadline: Deadline,
) -> None:
    """Have every routed version loaded again, from its files or, if these are gone, from MLflow."""
    for version in state.versions:
        if version.state == "retired":
            continue
        there = published_digest(places.models_dir, version.served_as)
        if there == version.digest:
            call = partial(load, places.triton_grpc, version.served_as, _LOAD_TIMEOUT_S)
            _patiently(call, deadline)
            LOG.info("loaded %s again", version.served_as)
            continue
        if there is not None:
            raise ConfigError(
                f"{places.models_dir / version.served_as}: digest is {there}, "
                f"but {version.digest} was published; restore the file or promote another version"
            )
        model = _patiently(partial(tracker.version, version.version), deadline)
        if model.digest != version.digest:
            raise ConfigError(
                f"MLflow {version.model_name}/{version.version}: digest is {model.digest}, "
                f"but {version.digest} is routed"
            )
        _deploy(pipeline, places, model, deadline)
        LOG.info("published %s again from MLflow", version.served_as)


def _first_state(now: RoutingState | None, model: RegisteredModel) -> RoutingState:
    if now is not None and now.champion is not None:
        return now  # somebody was faster
    version = routed(model, "champion", 100, "serving")
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
    parser.add_argument("--wait-s", type=float, default=180.0, help="for all that must answer")
    return parser.parse_args()


def main() -> int:
    """Run the job; 0 ok, 1 failed, 3 something does not answer."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    values = vars(_arguments())
    pipeline_dir = values.pop("pipeline_dir")
    try:
        provide_first_model(pipeline_dir, Addresses(**values))
    except PenstockError as exc:
        LOG.error("%s", exc)
        return 3 if isinstance(exc, RetryableError) else 1
    return 0


LOG = logging.getLogger("penstock.first_model")
_MARKER = "applied.sha256"


def prepare_features(pipeline: LoadedPipeline, repo_dir: Path) -> None:
    """Apply the Feast definitions, and fill in the profiles where the store is new.

    Does nothing where the same definitions have been applied before: a value that someone has
    changed since then stays.
    """
    if pipeline.config.feast is None:
        return
    definitions = (pipeline.folder / DEFINITIONS_FILE).read_bytes()
    digest = hashlib.sha256(definitions).hexdigest()
    marker = repo_dir / _MARKER
    applied = marker.read_text(encoding="utf-8") if marker.exists() else None
    if applied == digest:
        return
    from penstock_features.online import apply_definitions, load_profiles

    from penstock_training.training_set import profiles

    apply_definitions(pipeline.folder, repo_dir)
    frame = profiles(pipeline)
    if frame is not None and applied is None:
        for view in sorted({f.feast.split(":")[0] for f in pipeline.config.features if f.feast}):
            load_profiles(repo_dir, view, frame)
        LOG.info("loaded %d profiles", len(frame))
    marker.write_text(digest, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
