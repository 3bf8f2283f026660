"""A model for the tiny pipeline without training or tracking: one sigmoid, as ONNX."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Final

import numpy as np
from harness.bare_router import ServicePlaces
from onnx import TensorProto, checker, helper, numpy_helper
from penstock_routing.topic import RoutingTopic
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_training.deployment import load, unload
from penstock_training.publish import Deployment, find_template, publish, served_name
from penstock_training.tracking import digest_of

WIDTH: Final = 4
MAX_ROWS: Final = 4096
TIMEOUT_S: Final = 60.0


def tiny_onnx(bias: float = -5.0) -> bytes:
    """Return a model of `WIDTH` features whose first one decides."""
    weights = np.zeros((WIDTH, 1), np.float32)
    weights[0] = 1.0
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["features", "w", "b"], ["sum"]),
            helper.make_node("Sigmoid", ["sum"], ["scores"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 1])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array([bias], np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def serve_tiny_model(places: ServicePlaces, pipeline: str, routing: RoutingTopic) -> str:
    """Publish and load version 1, order routers to serve it; return its name on the server."""
    name, content = served_name(pipeline, "1"), tiny_onnx()
    deployment = Deployment(name, WIDTH, MAX_ROWS, content)
    publish(places.models_dir, deployment, find_template(Path(__file__)))
    load(places.triton_grpc, name, TIMEOUT_S)
    version = ModelVersion(
        pipeline, "1", name, "champion", 100, digest_of(content), "none", "serving"
    )
    now = time.time_ns() // 1_000_000
    routing.write(lambda _: RoutingState(pipeline, 1, now, "test", (version,)), TIMEOUT_S)
    return name


def unserve(places: ServicePlaces, served_as: str) -> None:
    """Unload a version and remove its files."""
    unload(places.triton_grpc, served_as)
    shutil.rmtree(places.models_dir / served_as, ignore_errors=True)
