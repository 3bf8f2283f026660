"""A topic read back on a real broker: to its end, past aborted records, waiting for open ones."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import OFFSET_BEGINNING, Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from penstock_schemas.errors import BrokerUnavailable
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline
from penstock_streaming.topic_reader import TopicReader

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

WAIT_S = 15.0


@pytest.fixture
def topic(kafka_bootstrap: str) -> Iterator[str]:
    name = f"reader-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(WAIT_S)
    yield name
    admin.delete_topics([name])[name].result(WAIT_S)


@pytest.fixture
def reader(kafka_bootstrap: str, topic: str) -> TopicReader:
    return TopicReader(KafkaSettings(bootstrap_servers=kafka_bootstrap), topic)


@pytest.fixture
def producer(kafka_bootstrap: str, topic: str) -> Producer:
    made = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": topic})
    made.init_transactions(WAIT_S)
    return made


def write(producer: Producer, topic: str, values: list[str], partition: int = 0) -> None:
    """Begin a transaction and leave it open."""
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value.encode(), partition=partition)
    assert producer.flush(WAIT_S) == 0


def read(reader: TopicReader, spans: dict[int, tuple[int, int]]) -> list[tuple[int, str]]:
    batches = reader.read(spans, Deadline(WAIT_S))
    return [(m.partition() or 0, (m.value() or b"").decode()) for batch in batches for m in batch]


def whole(reader: TopicReader) -> dict[int, tuple[int, int]]:
    ends = reader.ends([0, 1], Deadline(WAIT_S))
    return {p: (OFFSET_BEGINNING, end) for p, end in ends.items() if end}


def test_aborted_records_and_marks_at_the_end_are_passed(
    reader: TopicReader, producer: Producer, topic: str
) -> None:
    write(producer, topic, ["a", "b"])
    producer.commit_transaction(WAIT_S)
    write(producer, topic, ["no"])
    producer.abort_transaction(WAIT_S)
    write(producer, topic, ["no"], partition=1)
    producer.abort_transaction(WAIT_S)
    assert reader.ends([0, 1], Deadline(WAIT_S)) == {0: 5, 1: 2}
    assert reader.starts([0], Deadline(WAIT_S)) == {0: 0}
    assert read(reader, whole(reader)) == [(0, "a"), (0, "b")]
    assert read(reader, {0: (1, 2)}) == [(0, "b")]
    assert read(reader, {0: (3, 3)}) == []


def test_open_transaction_is_waited_for_and_what_comes_after_the_end_is_left(
    reader: TopicReader, producer: Producer, topic: str
) -> None:
    write(producer, topic, ["a"])
    spans = whole(reader)
    timer = threading.Timer(1.0, producer.commit_transaction, [WAIT_S])
    with pytest.raises(BrokerUnavailable, match="not reached"):
        list(reader.read(spans, Deadline(0.5)))
    timer.start()
    assert read(reader, spans) == [(0, "a")]
    timer.join()
    write(producer, topic, ["later"])
    producer.commit_transaction(WAIT_S)
    assert read(reader, spans) == [(0, "a")]


def led_ends(reader: TopicReader, partitions: list[int]) -> dict[int, int]:
    """Return the ends of partitions just made: they may have no leader for a moment."""
    deadline = Deadline(WAIT_S)
    while True:
        try:
            return reader.ends(partitions, deadline)
        except BrokerUnavailable:
            assert not deadline.expired


def test_partitions_that_are_added_are_found_by_the_same_reader(
    reader: TopicReader, topic: str, kafka_bootstrap: str
) -> None:
    assert led_ends(reader, [0, 1]) == {0: 0, 1: 0}
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(WAIT_S)
    assert led_ends(reader, [2]) == {2: 0}


def test_no_broker_is_an_outage() -> None:
    reader = TopicReader(KafkaSettings(bootstrap_servers="127.0.0.1:1", request_timeout_s=1.0), "t")
    with pytest.raises(BrokerUnavailable):
        reader.ends([0], Deadline(1.0))
