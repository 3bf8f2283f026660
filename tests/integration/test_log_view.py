"""Topics read on a real broker: to their ends, past aborted records, waiting for open ones."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Iterator

import pytest
from confluent_kafka import OFFSET_BEGINNING, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from harness.kafka import own_topics
from penstock_schemas.errors import BrokerUnavailable, ConfigError
from penstock_streaming.log_view import LogView, Offsets, Partition, RecordsGone, Span
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

WAIT_S = 15.0


@pytest.fixture
def topic(kafka_bootstrap: str) -> Iterator[str]:
    name = f"reader-{uuid.uuid4().hex[:8]}"
    with own_topics(kafka_bootstrap, [NewTopic(name, 2, 1)]):
        yield name


@pytest.fixture
def view(kafka_bootstrap: str) -> LogView:
    return LogView(KafkaSettings(bootstrap_servers=kafka_bootstrap))


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


def values(batches: Iterable[list[Message]]) -> list[tuple[int, str]]:
    return [(m.partition() or 0, (m.value() or b"").decode()) for batch in batches for m in batch]


def whole(view: LogView, topic: str) -> dict[Partition, Span]:
    ends = view.end_offsets([(topic, 0), (topic, 1)], Deadline(WAIT_S))
    return {p: Span(OFFSET_BEGINNING, end) for p, end in ends.items() if end}


def test_aborted_records_and_marks_at_the_end_are_passed(
    view: LogView, producer: Producer, topic: str
) -> None:
    write(producer, topic, ["a", "b"])
    producer.commit_transaction(WAIT_S)
    write(producer, topic, ["no"])
    producer.abort_transaction(WAIT_S)
    write(producer, topic, ["no"], partition=1)
    producer.abort_transaction(WAIT_S)
    first, second = (topic, 0), (topic, 1)
    assert view.end_offsets([first, second], Deadline(WAIT_S)) == {first: 5, second: 2}
    assert view.begin_offsets([first], Deadline(WAIT_S)) == {first: 0}
    assert values(view.read(whole(view, topic), Deadline(WAIT_S))) == [(0, "a"), (0, "b")]
    assert values(view.read({first: Span(1, 2)}, Deadline(WAIT_S))) == [(0, "b")]
    assert values(view.read({first: Span(3, 3)}, Deadline(WAIT_S))) == []
    assert values(view.read_to_end([first, second])) == [(0, "a"), (0, "b")]
    newest = view.newest(first, Deadline(WAIT_S))
    assert newest is not None
    assert newest.value() == b"b"
    assert view.newest(second) is None


def test_open_transaction_is_waited_for_and_what_comes_after_the_end_is_left(
    view: LogView, producer: Producer, topic: str
) -> None:
    write(producer, topic, ["a"])
    spans = whole(view, topic)
    timer = threading.Timer(1.0, producer.commit_transaction, [WAIT_S])
    with pytest.raises(BrokerUnavailable, match="not reached"):
        list(view.read(spans, Deadline(0.5)))
    assert values(view.read_to_end([(topic, 0)])) == []
    assert view.end_offsets([(topic, 0)], committed=True) == {(topic, 0): 0}
    timer.start()
    assert values(view.read(spans, Deadline(WAIT_S))) == [(0, "a")]
    timer.join()
    write(producer, topic, ["later"])
    producer.commit_transaction(WAIT_S)
    assert values(view.read(spans, Deadline(WAIT_S))) == [(0, "a")]


def led_ends(view: LogView, partitions: list[Partition]) -> Offsets:
    """Return the ends of partitions just made: they may have no leader for a moment."""
    deadline = Deadline(WAIT_S)
    while True:
        try:
            return view.end_offsets(partitions, deadline)
        except BrokerUnavailable:
            assert not deadline.expired


def test_partitions_that_are_added_are_found_by_the_same_view(
    view: LogView, topic: str, kafka_bootstrap: str
) -> None:
    places = [(topic, number) for number in range(3)]
    assert led_ends(view, places[:2]) == {places[0]: 0, places[1]: 0}
    assert view.partitions(topic) == places[:2]
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(WAIT_S)
    assert led_ends(view, places[2:]) == {places[2]: 0}
    assert view.partitions(topic) == places


def test_no_broker_is_an_outage() -> None:
    view = LogView(KafkaSettings(bootstrap_servers="127.0.0.1:1", request_timeout_s=1.0))
    with pytest.raises(BrokerUnavailable):
        view.end_offsets([("t", 0)], Deadline(1.0))


def test_topic_that_does_not_exist(view: LogView) -> None:
    absent = f"absent-{uuid.uuid4().hex[:8]}"
    with pytest.raises(ConfigError, match="does not exist"):
        view.partitions(absent)
    with pytest.raises(BrokerUnavailable, match="no such topic"):
        view.end_offsets([(absent, 0)])


def test_silence_ends_a_read_that_has_no_deadline(
    kafka_bootstrap: str, producer: Producer, topic: str
) -> None:
    view = LogView(KafkaSettings(bootstrap_servers=kafka_bootstrap), silence_s=1.0)
    write(producer, topic, ["a"])
    with pytest.raises(BrokerUnavailable, match=f"{topic}/0: the end was not reached"):
        list(view.read({(topic, 0): Span(0, 1)}))


def test_deleted_records_are_skipped_or_an_error(
    view: LogView, kafka_bootstrap: str, producer: Producer, topic: str
) -> None:
    write(producer, topic, ["a", "b"])
    producer.commit_transaction(WAIT_S)
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    place = TopicPartition(topic, 0, 1)
    admin.delete_records([place])[place].result(WAIT_S)
    spans = {(topic, 0): Span(0, 2)}
    assert values(view.read(spans, Deadline(WAIT_S))) == [(0, "b")]
    strict = LogView(KafkaSettings(bootstrap_servers=kafka_bootstrap), gap="error")
    with pytest.raises(RecordsGone, match="retention"):
        list(strict.read(spans, Deadline(WAIT_S)))


def test_follower_says_when_it_is_at_the_end_and_goes_on(
    view: LogView, producer: Producer, topic: str
) -> None:
    write(producer, topic, ["a"])
    producer.commit_transaction(WAIT_S)
    deadline = Deadline(WAIT_S)
    seen: list[str] = []
    for batch in view.follow([(topic, 0), (topic, 1)], lambda: deadline.expired):
        seen += [value for _, value in values([batch])] or ["-"]
        if seen[-1] == "-" and "b" not in seen:
            write(producer, topic, ["b"], partition=1)
            producer.commit_transaction(WAIT_S)
        elif "b" in seen:
            break
    assert [value for value in seen if value != "-"] == ["a", "b"]
    assert seen.index("a") < seen.index("-") < seen.index("b")
