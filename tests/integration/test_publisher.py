"""Answers over REST reach their topic at most once; what does not reach it is counted."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka.admin import NewTopic
from harness.inference import WIDTH, version
from harness.kafka import own_topics
from harness.waiting import eventually
from penstock_inference.model_server import ServedModel
from penstock_inference.predictions import AnsweredBy, Signature, Vectors, prediction_columns
from penstock_inference.publisher import PredictionPublisher
from penstock_inference.traffic_split import Route
from penstock_ledger import LogClient, TopicRange
from penstock_ledger.decoding import RecordDecoder
from penstock_ledger.reader import schema_reader
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_streaming.settings import KafkaSettings
from prometheus_client import CollectorRegistry, Counter

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

WAIT_S = 20.0
NOBODY = "127.0.0.1:1"
ORIGIN = pa.struct({"topic": pa.string(), "partition": pa.int32(), "offset": pa.int64()})


@pytest.fixture
def topic(kafka_bootstrap: str) -> Iterator[str]:
    name = f"rest-{uuid.uuid4().hex[:8]}"
    with own_topics(kafka_bootstrap, [NewTopic(name, 2, 1)]):
        yield name


@pytest.fixture
def dropped() -> Counter:
    return Counter("dropped", "d", registry=CollectorRegistry())


def count(dropped: Counter) -> float:
    return dropped._value.get()


def answers(first: int, rows: int) -> pa.RecordBatch:
    ids = pa.array([f"e{first + i}" for i in range(rows)])
    times = pa.array(np.full(rows, 1_770_000_000_000, np.int64)).cast(pa.timestamp("ms"))
    matrix = np.ones((rows, WIDTH), np.float32)
    by = AnsweredBy((Route(version(), ServedModel("tiny__1", WIDTH, max_rows=4)),))
    scores = np.full((rows, 1), 0.25, np.float32)
    vectors = Vectors(ids, times, matrix, pa.nulls(rows, ORIGIN))
    return prediction_columns(vectors, scores, by, Signature("tiny", 0.5, "a"), 1)


def test_each_answer_is_in_the_topic_once_with_no_origin(
    kafka_bootstrap: str, registry_url: str, topic: str, dropped: Counter
) -> None:
    registry = RegistryClient(RegistrySettings(url=registry_url))
    kafka = KafkaSettings(bootstrap_servers=kafka_bootstrap)
    publisher = PredictionPublisher(kafka, registry, topic, queue_rows=1_000, dropped=dropped.inc)

    def takes_one() -> bool:
        before = count(dropped)
        publisher.publish(answers(0, 1), [b"k"])
        return count(dropped) == before

    eventually(takes_one, WAIT_S, "it knows its schema")
    before = count(dropped)
    publisher.publish(answers(1, 300), [b"k"] * 300)
    publisher.publish(answers(301, 1), [None])
    publisher.close()
    assert count(dropped) == before
    end = LogClient(kafka_bootstrap).offsets(topic, "last", "read_committed")
    read = TopicRange(kafka_bootstrap, topic, dict.fromkeys(end, 0))
    decoder = RecordDecoder(schema_reader(registry_url))
    found = [r for batch in read.batches("read_committed", end, 1e18) for r in batch]
    values = [decoder.value(r) for r in found]
    assert sorted(v["event_id"] for v in values) == sorted(f"e{i}" for i in range(302))
    assert {v["origin"] for v in values} == {None}


def test_answers_that_no_broker_takes_are_dropped_and_counted_and_nobody_waits(
    registry_url: str, topic: str, dropped: Counter
) -> None:
    registry = RegistryClient(RegistrySettings(url=registry_url))
    kafka = KafkaSettings(bootstrap_servers=NOBODY)
    publisher = PredictionPublisher(kafka, registry, topic, queue_rows=10, dropped=dropped.inc)
    for i in range(100):
        publisher.publish(answers(i, 1), [b"k"])
    assert count(dropped) >= 90, "the queue has a size"
    publisher.close()
    assert count(dropped) == 100
