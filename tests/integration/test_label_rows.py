"""Training rows on a real broker: bounded, waiting for more, and made again from the manifest."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]
from harness.waiting import eventually
from penstock_pipelines.loader import load_pipeline
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_schemas.codec import encode_one
from penstock_schemas.errors import ConfigError
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import Topic
from penstock_streaming import admin
from penstock_streaming.settings import KafkaSettings
from penstock_training_job.rows import (
    LabelRows,
    make_training_set,
    rebuild_training_set,
    training_rows,
)

pytestmark = pytest.mark.integration
FRAUD = load_pipeline(Path(__file__).parents[2] / "pipelines" / "fraud").config
CALL_S = 20.0


class Topics:
    """Predictions and interactions of a test's own."""

    def __init__(self, bootstrap: str, registry_url: str) -> None:
        self.kafka = KafkaSettings(bootstrap_servers=bootstrap)
        self.registry = RegistryClient(RegistrySettings(url=registry_url))
        self.names = [f"{role}-{uuid.uuid4().hex[:8]}" for role in ("predictions", "labels")]
        self.config = FRAUD.model_copy(
            update={"topics": {"predictions": self.names[0], "interactions": self.names[1]}}
        )
        schemas = ("prediction.avsc", "interaction.avsc")
        wanted = [Topic(n, 2, s) for n, s in zip(self.names, schemas, strict=True)]
        admin.apply(self.kafka, self.registry, wanted, {})
        self._texts = [schema_text(s) for s in schemas]
        self._ids = [
            self.registry.register(f"{n}-value", t)
            for n, t in zip(self.names, self._texts, strict=True)
        ]
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "transactional.id": uuid.uuid4().hex}
        )
        self._producer.init_transactions(CALL_S)
        self._rng = np.random.default_rng(0)
        self._count = 0

    def tell(self, count: int, partition: int = 0, *, commit: bool = True) -> None:
        """Write predictions with their labels in a transaction."""
        self._producer.begin_transaction()
        for i in range(self._count, self._count + count):
            event_id = f"e{i:06d}"
            prediction = {
                "event_id": event_id,
                "event_time": i,
                "predicted_at": 0,
                "pipeline": "fraud",
                "model_name": "fraud",
                "model_version": "1",
                "variant": "champion",
                "scores": [0.5],
                "decision": False,
                "threshold": 0.5,
                "features": self._rng.random(30).tolist(),
                "origin": None,
                "attempt": "a",
                "outcome": "predicted",
            }
            label = {"event_id": event_id, "label": float(i % 3 == 0), "occurred_at": i}
            self._send(0, prediction, partition)
            self._send(1, {"kind": None, "value": None, **label}, partition)
        self._count += count
        if commit:
            self._producer.commit_transaction(CALL_S)
        else:
            self._producer.flush(CALL_S)
            self._producer.abort_transaction(CALL_S)

    def _send(self, which: int, record: dict[str, object], partition: int) -> None:
        value = encode_one(self._texts[which], self._ids[which], record)
        self._producer.produce(self.names[which], value, b"k", partition)

    def partitions(self) -> int:
        """Return how many partitions the producer knows."""
        known = (self._producer.list_topics(n, CALL_S).topics[n].partitions for n in self.names)
        return min(len(p) for p in known)

    def reader(self, since: int | None = None, limit: int | None = None) -> LabelRows:
        wanted = training_rows(self.config, since)
        return LabelRows(self.kafka, self.registry.schema_text, self.config, wanted, limit=limit)


@pytest.fixture
def topics(kafka_bootstrap: str, registry_url: str) -> Iterator[Topics]:
    made = Topics(kafka_bootstrap, registry_url)
    yield made
    client = AdminClient({"bootstrap.servers": kafka_bootstrap})
    for future in client.delete_topics(made.names).values():
        future.result(CALL_S)


def test_rows_are_read_as_they_are_committed_and_aborted_ones_never(topics: Topics) -> None:
    reader = topics.reader()
    reader.advance()
    assert reader.joined() is None
    topics.tell(100)
    topics.tell(50, 1, commit=False)
    reader.advance()
    found = reader.joined()
    assert found is not None
    assert found.num_rows == 100
    topics.tell(70, 1)
    reader.advance()
    found = reader.joined()
    assert found is not None
    assert found.num_rows == 170
    assert reader.joined(at_least=171) is None


@pytest.mark.parametrize(("since", "limit"), [(None, None), (120, None), (None, 60)])
def test_training_set_is_made_again_from_its_manifest_alone(
    topics: Topics, since: int | None, limit: int | None
) -> None:
    for partition in (0, 1, 0, 1):
        topics.tell(50, partition)
    reader = topics.reader(since, limit)
    reader.advance()
    for partition in (0, 1):
        topics.tell(40, partition)
        reader.advance()
    rows = reader.joined()
    assert rows is not None
    source = {"data_since": since, "max_labels": 90, "ranges": reader.ranges()}
    made = make_training_set(rows, topics.config, source)
    assert len(made) <= 90
    assert since is None or min(rows["event_time"].to_pylist()) >= since
    topics.tell(30)  # comes later: none of its business
    manifest = json.loads(json.dumps(made.manifest()))
    resolve = topics.registry.schema_text
    again = rebuild_training_set(manifest, topics.kafka, resolve, topics.config)
    assert again.sha256 == made.sha256
    assert np.array_equal(again.matrix, made.matrix)
    manifest["source"]["ranges"][topics.names[1]]["0"]["last"] -= 10
    with pytest.raises(ConfigError, match="no longer hold"):
        rebuild_training_set(manifest, topics.kafka, resolve, topics.config)


def test_partitions_that_are_added_are_read_too(topics: Topics) -> None:
    topics.tell(30)
    reader = topics.reader()
    reader.advance()
    client = AdminClient(topics.kafka.as_librdkafka())
    more = [NewPartitions(name, 3) for name in topics.names]
    for future in client.create_partitions(more).values():
        future.result(CALL_S)
    eventually(lambda: topics.partitions() == 3, CALL_S, "the new partitions")
    topics.tell(20, 2)
    reader.advance()
    rows = reader.joined()
    assert rows is not None
    assert rows.num_rows == 50
    assert reader.ranges()[topics.names[0]]["2"]["first"] == 0
