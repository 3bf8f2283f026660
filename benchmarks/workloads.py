"""The records every contender reads, and the model every contender runs.

The record is the peer benchmark's: id, entity, time, amount and 30 float features, Avro with
Confluent framing, about 180 bytes.
"""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import onnx
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from onnx import TensorProto, helper, numpy_helper

N_FEATURES = 30
PARTITIONS = 4
DISTINCT = 20_000
"""Distinct payloads; the rest repeat them."""

TXN_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Txn",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "entity_id", "type": "string"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "amount", "type": "double"},
        {"name": "features", "type": {"type": "array", "items": "float"}},
    ],
}


def payloads(schema_id: int, seed: int = 1) -> list[bytes]:
    """Return `DISTINCT` framed events."""
    rng = random.Random(seed)
    parsed = fastavro.parse_schema(TXN_SCHEMA)
    framing = b"\0" + schema_id.to_bytes(4, "big")
    out = []
    for i in range(DISTINCT):
        buffer = io.BytesIO(framing)
        buffer.seek(5)
        fastavro.schemaless_writer(
            buffer,
            parsed,
            {
                "event_id": f"{rng.getrandbits(128):032x}",
                "entity_id": f"c{rng.randrange(100_000)}",
                "event_time": 1_700_000_000_000 + i,
                "amount": rng.random() * 100,
                "features": [rng.gauss(0, 1) for _ in range(N_FEATURES)],
            },
        )
        out.append(buffer.getvalue())
    return out


def create_topic(bootstrap: str, topic: str, partitions: int = PARTITIONS) -> None:
    """Create an empty topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(timeout=30)


def fill(bootstrap: str, topic: str, records: int, schema_id: int) -> None:
    """Create ``topic`` and fill it with ``records`` events."""
    create_topic(bootstrap, topic)
    pool = payloads(schema_id)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 20,
            "batch.size": 262_144,
            "queue.buffering.max.messages": 2_000_000,
            "compression.type": "lz4",
        }
    )
    for i in range(records):
        producer.produce(topic, pool[i % DISTINCT], key=str(i % 1000).encode())
        if i % 10_000 == 0:
            producer.poll(0)
    if producer.flush(120):
        raise RuntimeError(f"{topic}: not every record was delivered within 120 s")


def write_model(path: Path, output: str) -> None:
    """Write the model, 30 floats → Gemm 64 → ReLU → Gemm 1 → sigmoid, as ONNX.

    Parameters
    ----------
    output
        Name of the output tensor: the peers call it score, Triton models here scores.
    """
    rng = np.random.default_rng(0)
    weights = {
        "W1": rng.normal(size=(N_FEATURES, 64)),
        "b1": np.zeros(64),
        "W2": rng.normal(size=(64, 1)),
        "b2": np.zeros(1),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["features", "W1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["a"]),
            helper.make_node("Gemm", ["a", "W2", "b2"], ["z"]),
            helper.make_node("Sigmoid", ["z"], [output]),
        ],
        "fraud",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", N_FEATURES])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(v.astype("f"), k) for k, v in weights.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
