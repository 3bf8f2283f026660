"""The records every contender reads, and the model every contender runs.

The record is the peer benchmark's: id, entity, time, amount and 30 floats, Avro with Confluent
framing, about 180 bytes. As a feature vector the floats are one array; as an event, for ingest and
inference in series, they are fields of their own, and 30 features are made of it: 24 of its fields
and 6 of the entity's own history.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import fastavro
import numpy as np
import onnx
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from onnx import TensorProto, helper, numpy_helper

N_FEATURES: Final = 30
PARTITIONS: Final = 4
DISTINCT: Final = 20_000
"""Distinct payloads; the rest repeat them."""
ENTITIES: Final = 100_000
FIELDS_USED: Final = 22
"""Fields of an event that are features as they are."""
PROFILE: Final = tuple(f"p{i}" for i in range(5))
"""Features that Feast holds of an entity, where it is asked."""
ID_AT: Final = slice(6, 38)
"""Where the 32 characters of the event's id lie: after the framing and one byte of length."""
CALL_ROWS: Final = 1024
"""Most rows of one call to a model."""
TIMEOUT_S: Final = 120.0

_HEAD: Final[list[dict[str, Any]]] = [
    {"name": "event_id", "type": "string"},
    {"name": "entity_id", "type": "string"},
    {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "amount", "type": "double"},
]
VECTOR_SCHEMA: Final[dict[str, Any]] = {
    "type": "record",
    "name": "Txn",
    "fields": [*_HEAD, {"name": "features", "type": {"type": "array", "items": "float"}}],
}
EVENT_SCHEMA: Final[dict[str, Any]] = {
    "type": "record",
    "name": "Txn",
    "fields": [*_HEAD, *({"name": f"f{i}", "type": "float"} for i in range(N_FEATURES))],
}
EVENT_RULES: Final = (
    'rules:\n  - {field: event_id, max_length: 64, pattern: "[a-z0-9]+"}\n'
    "  - {field: entity_id, max_length: 32}\n"
    "  - {field: amount, min: 0, max: 1000000}\n"
)

Pool = Sequence[tuple[bytes, bytes]]


def event_features(online: Sequence[str]) -> str:
    """Return the features of an event as YAML: as many of the model's as `N_FEATURES`.

    Parameters
    ----------
    online
        Names of those that come from Feast, in place of fields of the event.
    """
    lines = [
        "{name: amount_log, from: amount, transform: log1p}",
        "{name: hour_sin, from: event_time, transform: hour_sin}",
        *(f"{{name: f{i}, from: f{i}}}" for i in range(FIELDS_USED - len(online))),
        *(f'{{name: {name}, feast: "profile:{name}"}}' for name in online),
        "{name: count_1h, aggregate: {function: count, half_life_s: 3600}}",
        *(
            f"{{name: {name}_1d, aggregate: {{function: {name}, of: amount}}}}"
            for name in ("mean", "std", "zscore", "ratio")
        ),
        "{name: since_last, aggregate: {function: since_last}, log1p: true}",
    ]
    return "".join(f"  - {line}\n" for line in lines)


def entity_ids() -> list[str]:
    """Return every entity there is."""
    return [f"c{i}" for i in range(ENTITIES)]


def pool(schema: dict[str, Any], schema_id: int, size: int = DISTINCT, seed: int = 1) -> Pool:
    """Return ``size`` framed records with their keys."""
    rng = random.Random(seed)
    parsed = fastavro.parse_schema(schema)
    framing = b"\0" + schema_id.to_bytes(4, "big")
    entities = entity_ids()
    records = []
    for i in range(size):
        head: dict[str, Any] = {
            "event_id": f"{rng.getrandbits(128):032x}",
            "entity_id": rng.choice(entities),
            "event_time": 1_700_000_000_000 + i,
            "amount": rng.random() * 100,
        }
        floats = [rng.gauss(0, 1) for _ in range(N_FEATURES)]
        body = {f"f{i}": value for i, value in enumerate(floats)} | {"features": floats}
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, parsed, head | body)
        records.append((head["entity_id"].encode(), framing + buffer.getvalue()))
    return records


def admin_client(bootstrap: str) -> AdminClient:
    """Return an admin client that tells of errors only."""
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 3})


def create_topic(bootstrap: str, topic: str, partitions: int = PARTITIONS) -> None:
    """Create an empty topic."""
    admin = admin_client(bootstrap)
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(timeout=TIMEOUT_S)


def delete_topics(bootstrap: str, topics: Sequence[str]) -> None:
    """Delete topics, so that one run's output does not lie in the next one's page cache."""
    if not topics:
        return
    admin = admin_client(bootstrap)
    for future in admin.delete_topics(list(topics), request_timeout=30).values():
        future.exception(TIMEOUT_S)  # one that is not there is as good


def fill(bootstrap: str, topic: str, records: int, payloads: Pool) -> None:
    """Create ``topic`` and fill it with ``records`` records.

    Raises
    ------
    RuntimeError
        If not every record was delivered in time.
    """
    create_topic(bootstrap, topic)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 20,
            "batch.size": 262_144,
            "queue.buffering.max.messages": 200_000,
            "compression.type": "lz4",
        }
    )
    for i in range(records):
        key, value = payloads[i % len(payloads)]
        while True:
            try:
                producer.produce(topic, value, key=key)
                break
            except BufferError:
                producer.poll(0.05)
        if i % 10_000 == 0:
            producer.poll(0)
    if producer.flush(TIMEOUT_S):
        raise RuntimeError(f"{topic}: not every record was delivered within {TIMEOUT_S:.0f} s")


@dataclass(frozen=True, slots=True)
class Served:
    """How Triton serves a model of the benchmark.

    Parameters
    ----------
    hidden
        Widths of its hidden layers.
    device
        ``KIND_CPU`` or ``KIND_GPU``.
    """

    hidden: Sequence[int] = (64,)
    device: str = "KIND_CPU"


SMALL: Final = Served()
"""The model that every contender runs."""


def write_model(path: Path, output: str, hidden: Sequence[int] = SMALL.hidden) -> None:
    """Write a model, 30 floats → (Gemm → ReLU) per hidden layer → Gemm 1 → sigmoid, as ONNX.

    Parameters
    ----------
    output
        Name of the output tensor: the peers call it score, Triton models here scores.
    hidden
        Widths of the hidden layers.
    """
    rng = np.random.default_rng(0)
    widths = (N_FEATURES, *hidden, 1)
    nodes, weights, value = [], {}, "features"
    for layer, (before, after) in enumerate(pairwise(widths), 1):
        weights |= {f"W{layer}": rng.normal(size=(before, after)), f"b{layer}": np.zeros(after)}
        nodes.append(helper.make_node("Gemm", [value, f"W{layer}", f"b{layer}"], [f"z{layer}"]))
        kind, value = ("Relu", f"a{layer}") if layer <= len(hidden) else ("Sigmoid", output)
        nodes.append(helper.make_node(kind, [f"z{layer}"], [value]))
    graph = helper.make_graph(
        nodes,
        "fraud",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", N_FEATURES])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(v.astype("f"), k) for k, v in weights.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )


def write_triton_model(models: Path, name: str, output: str, served: Served = SMALL) -> None:
    """Write a model into Triton's repository under ``name``; the caller has it loaded."""
    write_model(models / name / "1" / "model.onnx", output, served.hidden)
    template = Path(__file__).parents[1] / "triton_models/templates/config.pbtxt"
    text = template.read_text(encoding="utf-8").replace('name: "scores"', f'name: "{output}"')
    for key, value in (
        ("@NAME@", name),
        ("@FEATURES@", str(N_FEATURES)),
        ("@MAX_BATCH_SIZE@", str(CALL_ROWS)),
        ("KIND_CPU", served.device),
    ):
        text = text.replace(key, value)
    (models / name / "config.pbtxt").write_text(text, encoding="utf-8")
