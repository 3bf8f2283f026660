"""The components of a stack: infrastructure, first-model jobs, services, and their environment."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from penstock_stack import probes
from penstock_stack.component import Component, Launch, StackConfig, Stage
from penstock_stack.kafka_server import kafka
from penstock_stack.mlflow_server import mlflow
from penstock_stack.ray_head import ray_environment, ray_head
from penstock_stack.registry_server import API_PATH, registry
from penstock_stack.triton_server import triton


def infrastructure(config: StackConfig) -> list[Component]:
    """Return Kafka, the registry, Triton, Ray and MLflow."""
    return [kafka(config), registry(config), triton(config), ray_head(config), mlflow(config)]


TOPICS = "topics"
_FIRST_MODEL_DEADLINE_S = 240.0
_SERVICE_DEADLINE_S = 90.0
_DRAIN_S = 7.5


def services(config: StackConfig, apply_topics: Callable[[], None]) -> list[Component]:
    """Return topics, one first-model job per pipeline, and the services.

    Parameters
    ----------
    config
        The stack.
    apply_topics
        Creates the topics and registers the schemas of ``config.pipelines``.
    """
    topics = Component(
        name=TOPICS, action=apply_topics, needs=("kafka", "registry"), stage=Stage.SERVICE
    )
    jobs = [_first_model(config, folder) for folder in config.pipelines]
    # What has been served before has its topics, its feature store and its model on disk. Its
    # services need not wait for those who only check them; for a registry or a model server that
    # still starts they wait themselves, as they would after an outage.
    needs = () if config.has_served else (TOPICS, "triton", *(job.name for job in jobs))
    return [
        topics,
        *jobs,
        _ingest(config, needs),
        _inference(config, needs),
        _drift(config, needs),
        _retrain_trigger(config, needs),
    ]


def first_model_name(folder: Path) -> str:
    """Return the name of a pipeline's first-model job."""
    return f"first-model-{folder.name}"


def _first_model(config: StackConfig, folder: Path) -> Component:
    endpoints = config.endpoints
    flags = {
        "pipeline-dir": folder,
        "kafka": endpoints.address("KAFKA"),
        "registry": endpoints.url("REGISTRY", API_PATH),
        "mlflow": endpoints.url("MLFLOW"),
        "triton-grpc": endpoints.address("TRITON_GRPC"),
        "models-dir": config.models,
        "feast-dir": config.feast,
    }
    arguments = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    argv = (sys.executable, "-m", "penstock_training.first_model", *arguments)
    return Component(
        name=first_model_name(folder),
        prepare=lambda: Launch(argv),
        needs=(TOPICS, "triton", "mlflow"),
        on_done=config.first_model_done(folder).touch,
        deadline_s=_FIRST_MODEL_DEADLINE_S,
        stage=Stage.SERVICE,
        # At the first start everything waits for it; later it only checks what is there.
        niceness=10 if config.has_served else 0,
    )


def _common(config: StackConfig, prefix: str, port_name: str) -> dict[str, str]:
    endpoints = config.endpoints
    return {
        f"{prefix}KAFKA__BOOTSTRAP_SERVERS": endpoints.address("KAFKA"),
        f"{prefix}REGISTRY__URL": endpoints.url("REGISTRY", API_PATH),
        f"{prefix}PIPELINES": json.dumps([str(folder) for folder in config.pipelines]),
        f"{prefix}METRICS_PORT": str(endpoints.port(port_name)),
        f"{prefix}RUN_DIR": str(config.run),
    }


def _ingest(config: StackConfig, needs: tuple[str, ...]) -> Component:
    prefix = "PENSTOCK_INGEST_"
    environment = {
        **_common(config, prefix, "INGEST"),
        f"{prefix}FEAST_DIR": str(config.feast),
    }
    port = config.endpoints.port("INGEST")
    return Component(
        name="ingest",
        prepare=lambda: Launch((sys.executable, "-m", "penstock_ingest"), environment),
        is_ready=lambda: probes.http_ok(port, "/ready"),
        is_stuck=lambda: probes.says_not_live(port),
        needs=("kafka", *needs),
        ports=("INGEST",),
        endpoint=config.endpoints.url("INGEST"),
        deadline_s=_SERVICE_DEADLINE_S,
        stop_s=_DRAIN_S,
        stage=Stage.SERVICE,
    )


def _inference(config: StackConfig, needs: tuple[str, ...]) -> Component:
    endpoints = config.endpoints
    prefix = "PENSTOCK_INFERENCE_"
    environment = {
        **_common(config, prefix, "INFERENCE"),
        **ray_environment(config),
        f"{prefix}FEAST_DIR": str(config.feast),
        f"{prefix}TRITON__GRPC_URL": endpoints.address("TRITON_GRPC"),
        f"{prefix}GATEWAY_PORT": str(endpoints.port("GATEWAY")),
        f"{prefix}RAY_ADDRESS": endpoints.address("RAY_GCS"),
    }
    return Component(
        name="inference",
        prepare=lambda: Launch((sys.executable, "-m", "penstock_inference"), environment),
        is_ready=lambda: (
            probes.http_ok(endpoints.port("INFERENCE"), "/ready")
            and probes.http_ok(endpoints.port("GATEWAY"), "/v2/health/ready")
        ),
        needs=("kafka", "ray", *needs),
        restarts_with=("ray",),
        ports=("INFERENCE", "GATEWAY"),
        endpoint=endpoints.url("INFERENCE"),
        deadline_s=_SERVICE_DEADLINE_S,
        stop_s=_DRAIN_S,
        stage=Stage.SERVICE,
    )


def _drift(config: StackConfig, needs: tuple[str, ...]) -> Component:
    prefix = "PENSTOCK_DRIFT_"
    environment = {
        **_common(config, prefix, "DRIFT"),
        f"{prefix}MLFLOW_URL": config.endpoints.url("MLFLOW"),
        f"{prefix}REPORTS_DIR": str(config.reports),
    }
    return _watcher(config, "drift", "DRIFT", environment, ("kafka", *needs))


def _retrain_trigger(config: StackConfig, needs: tuple[str, ...]) -> Component:
    endpoints = config.endpoints
    prefix = "PENSTOCK_RETRAIN_TRIGGER_"
    environment = {
        **_common(config, prefix, "RETRAIN_TRIGGER"),
        f"{prefix}RAY_JOBS_URL": endpoints.url("RAY"),
        f"{prefix}RAY_AUTH_TOKEN_PATH": str(config.data_dir / "ray-token"),
        f"{prefix}MLFLOW_URL": endpoints.url("MLFLOW"),
        f"{prefix}TRITON_GRPC": endpoints.address("TRITON_GRPC"),
        f"{prefix}MODELS_DIR": str(config.models),
    }
    return _watcher(
        config, "retrain-trigger", "RETRAIN_TRIGGER", environment, ("kafka", "ray", *needs)
    )


def _watcher(
    config: StackConfig,
    name: str,
    port_name: str,
    environment: dict[str, str],
    needs: tuple[str, ...],
) -> Component:
    """Return a service beside the path from event to prediction: it gives way to what serves."""
    port = config.endpoints.port(port_name)
    module = f"penstock_{name.replace('-', '_')}"
    return Component(
        name=name,
        prepare=lambda: Launch((sys.executable, "-m", module), environment),
        is_ready=lambda: probes.http_ok(port, "/ready"),
        is_stuck=lambda: probes.says_not_live(port),
        needs=needs,
        ports=(port_name,),
        endpoint=config.endpoints.url(port_name),
        deadline_s=_SERVICE_DEADLINE_S,
        stop_s=_DRAIN_S,
        stage=Stage.SERVICE,
        niceness=5,
    )
