"""Decisions on a real broker: one transaction over several topics, fenced, and taken anew."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import NewTopic
from harness.kafka import own_topics
from harness.waiting import background_calls
from penstock_schemas.errors import BrokerUnavailable, DeliveryFailed, FencedError
from penstock_streaming.errors import OutcomeUnknown
from penstock_streaming.fenced_writer import FencedWriter, LogRecord
from penstock_streaming.log_view import LogView
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

WAIT_S = 20.0


@pytest.fixture
def topics(kafka_bootstrap: str) -> Iterator[list[str]]:
    names = [f"fenced-{uuid.uuid4().hex[:8]}" for _ in range(2)]
    config = {"max.message.bytes": "10000"}
    with own_topics(kafka_bootstrap, [NewTopic(name, 1, 1, config=config) for name in names]):
        yield names


@pytest.fixture
def make(kafka: KafkaSettings, topics: list[str]) -> Iterator[Callable[[], FencedWriter]]:
    """Return a maker of writers; each has the same transactional id."""
    made: list[FencedWriter] = []

    def one() -> FencedWriter:
        made.append(FencedWriter(kafka, topics[0]))
        return made[-1]

    yield one
    for writer in made:
        writer.close()


def read(kafka: KafkaSettings, topic: str) -> list[bytes | None]:
    batches = LogView(kafka).read_to_end([(topic, 0)], Deadline(WAIT_S))
    return [message.value() for batch in batches for message in batch]


def test_records_of_several_topics_become_visible_together(
    make: Callable[[], FencedWriter], kafka: KafkaSettings, topics: list[str]
) -> None:
    first, second = topics
    writer = make()
    assert not writer.is_open
    writer.open()
    assert writer.is_open
    written = writer.write_transaction(
        [LogRecord(first, b"k", b"1"), LogRecord(first, b"k", b"2"), LogRecord(second, b"k", b"3")]
    )
    assert written == {(first, 0): 1, (second, 0): 0}
    writer.produce(LogRecord(first, b"k", b"no"))
    assert writer.age_s > 0.0
    writer.close()
    assert (read(kafka, first), read(kafka, second)) == ([b"1", b"2"], [b"3"])
    with pytest.raises(OutcomeUnknown, match="not open"):
        writer.produce(LogRecord(first, b"k", b"no"))


def test_who_opens_it_next_fences_the_one_before(
    make: Callable[[], FencedWriter], kafka: KafkaSettings, topics: list[str]
) -> None:
    asleep, successor = make(), make()
    asleep.open()
    asleep.produce(LogRecord(topics[0], b"k", b"no"))
    successor.open()
    with pytest.raises(FencedError, match="taken over"):
        asleep.write_transaction([LogRecord(topics[0], b"k", b"no")])
    assert not asleep.is_open
    successor.write_transaction([LogRecord(topics[0], b"k", b"yes")])
    assert read(kafka, topics[0]) == [b"yes"]


def test_record_that_the_broker_refuses_is_an_error_for_good(
    make: Callable[[], FencedWriter], kafka: KafkaSettings, topics: list[str]
) -> None:
    writer = make()
    with pytest.raises(DeliveryFailed, match="refuses"):
        writer.write_decision(lambda _: [LogRecord(topics[0], b"k", os.urandom(20_000))], WAIT_S)
    assert read(kafka, topics[0]) == []


def test_rivals_count_without_a_gap(
    make: Callable[[], FencedWriter], kafka: KafkaSettings, topics: list[str]
) -> None:
    def count(writer: FencedWriter) -> Callable[[], None]:
        def decide(_: Deadline) -> list[LogRecord]:
            number = str(len(read(kafka, topics[0]))).encode()
            return [LogRecord(topic, b"k", number) for topic in topics]

        def run() -> None:
            for _ in range(2):
                assert writer.write_decision(decide, 60.0).keys() == {(t, 0) for t in topics}

        return run

    with background_calls() as start:
        for _ in range(2):
            start(count(make()))
    assert read(kafka, topics[0]) == read(kafka, topics[1]) == [b"0", b"1", b"2", b"3"]


def test_nothing_to_write(make: Callable[[], FencedWriter]) -> None:
    writer = make()
    assert writer.write_decision(lambda _: [], WAIT_S) == {}
    assert not writer.is_open


def test_no_broker_is_an_outage() -> None:
    writer = FencedWriter(KafkaSettings(bootstrap_servers="127.0.0.1:1"), "id")
    with pytest.raises(BrokerUnavailable, match="not written in 1 s"):
        writer.write_decision(lambda _: [], 1.0)
