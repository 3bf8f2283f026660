"""The tiny pipeline and its model: a YAML file, an Avro schema, a small CSV; one sigmoid as ONNX.

The pipeline is made from a folder alone. The model needs neither training nor tracking.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from harness.records import Row
from harness.services import ServiceAddresses
from onnx import TensorProto, checker, helper, numpy_helper
from penstock_routing.topic import RoutingTopic
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_training.deployment import load, unload
from penstock_training.publish import Deployment, find_template, publish, served_name
from penstock_training.tracking import digest_of

NAME: Final = "pumps"
PIPELINE: Final = f"""\
pipeline: {NAME}
description: Pumps that are about to fail
partitions: 2
event: {{key: pump_id}}
rules:
  - {{field: pressure, min: 0, max: 100}}
features:
  - {{name: vibration, from: vibration}}
  - {{name: pressure, from: pressure}}
  - {{name: heat, from: temperature}}
  - {{name: vibration_mean, aggregate: {{function: mean, of: vibration, half_life_s: 3600}}}}
model:
  kind: logistic
  bootstrap: {{data: history.csv, label: failed}}
threshold: 0.5
"""
EVENT: Final = {
    "type": "record",
    "name": "PumpReading",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "pump_id", "type": "string"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "vibration", "type": "double"},
        {"name": "pressure", "type": "double"},
        {"name": "temperature", "type": "double"},
    ],
}
HISTORY_ROWS: Final = 600


def write_folder(root: Path) -> Path:
    """Write the pipeline's folder under ``root`` and return it."""
    folder = root / NAME
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(PIPELINE)
    (folder / "event.avsc").write_text(json.dumps(EVENT))
    rng = random.Random(3)
    with (folder / "history.csv").open("w", newline="") as stream:
        names = [field["name"] for field in EVENT["fields"]]  # type: ignore[index]
        writer = csv.DictWriter(stream, [*names, "failed"])
        writer.writeheader()
        for row in readings(rng, HISTORY_ROWS):
            writer.writerow(row | {"failed": int(row["vibration"] > 5.0)})
    return folder


def readings(rng: random.Random, count: int) -> Iterator[Row]:
    """Yield readings; those with a vibration over 5 fail."""
    start = time.time_ns() // 1_000_000 - count * 1_000
    for number in range(count):
        failing = rng.random() < 0.3
        yield {
            "event_id": f"r{rng.getrandbits(48):x}",
            "pump_id": f"pump-{rng.randrange(20)}",
            "event_time": start + number * 1_000,
            "vibration": rng.gauss(9.0, 1.0) if failing else rng.gauss(1.5, 1.0),
            "pressure": rng.uniform(20.0, 60.0),
            "temperature": rng.gauss(70.0, 8.0),
        }


MODEL_WIDTH: Final = 4
MAX_ROWS: Final = 4096
TIMEOUT_S: Final = 60.0


def tiny_onnx(bias: float = -5.0) -> bytes:
    """Return a model of `MODEL_WIDTH` features whose first one decides."""
    weights = np.zeros((MODEL_WIDTH, 1), np.float32)
    weights[0] = 1.0
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["features", "w", "b"], ["sum"]),
            helper.make_node("Sigmoid", ["sum"], ["scores"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, MODEL_WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 1])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array([bias], np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def serve_tiny_model(addresses: ServiceAddresses, pipeline: str, routing: RoutingTopic) -> str:
    """Publish and load version 1, order routers to serve it; return its name on the server."""
    name, content = served_name(pipeline, "1"), tiny_onnx()
    deployment = Deployment(name, MODEL_WIDTH, MAX_ROWS, content)
    publish(addresses.models_dir, deployment, find_template(Path(__file__)))
    load(addresses.triton_grpc, name, TIMEOUT_S)
    version = ModelVersion(
        pipeline, "1", name, "champion", 100, digest_of(content), "none", "serving"
    )
    now = time.time_ns() // 1_000_000
    routing.write(lambda _: RoutingState(pipeline, 1, now, "test", (version,)), TIMEOUT_S)
    return name


def unserve(addresses: ServiceAddresses, served_as: str) -> None:
    """Unload a version and remove its files."""
    unload(addresses.triton_grpc, served_as)
    shutil.rmtree(addresses.models_dir / served_as, ignore_errors=True)
