"""The infrastructure as a list of components."""

from __future__ import annotations

from penstock_stack.component import Component, StackConfig
from penstock_stack.kafka_server import kafka
from penstock_stack.mlflow_server import mlflow
from penstock_stack.ray_head import ray_head
from penstock_stack.registry_server import registry
from penstock_stack.triton_server import triton


def infrastructure(config: StackConfig) -> list[Component]:
    """Return Kafka, the registry, Triton, Ray and MLflow."""
    return [kafka(config), registry(config), triton(config), ray_head(config), mlflow(config)]
