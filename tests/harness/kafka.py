"""Topics of a test's own on a real broker, and reading them: one way for all tests."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec
from harness.waiting import eventually
from penstock_schemas.topics import Topic

CALL_S: Final = 30.0
CHUNK_ROWS: Final = 5_000
Isolation = Literal["read_committed", "read_uncommitted"]


@contextmanager
def own_topics(bootstrap: str, topics: Iterable[Topic | NewTopic]) -> Iterator[list[str]]:
    """Create topics for the time of the block, with one replica; yield their names."""
    wanted = [
        topic
        if isinstance(topic, NewTopic)
        else NewTopic(topic.name, topic.partitions, 1, config=topic.config)
        for topic in topics
    ]
    names = [topic.topic for topic in wanted]
    client = AdminClient({"bootstrap.servers": bootstrap})  # its futures fail once it is gone
    for made in client.create_topics(wanted).values():
        made.result(CALL_S)
    eventually(lambda: _have_leaders(client, wanted), CALL_S, "the topics have leaders")
    try:
        yield names
    finally:
        delete_topics(bootstrap, names)


def _have_leaders(client: AdminClient, topics: Iterable[NewTopic]) -> bool:
    """Return whether each partition's end can be asked for: one just made has no leader yet."""
    wanted = {
        TopicPartition(topic.topic, number): OffsetSpec.latest()
        for topic in topics
        for number in range(topic.num_partitions)
    }
    try:
        for end in client.list_offsets(wanted).values():
            end.result(CALL_S)
    except KafkaException:
        return False
    return True


def delete_topics(bootstrap: str, names: Iterable[str]) -> None:
    """Delete those of these topics that there are."""
    client = AdminClient({"bootstrap.servers": bootstrap})
    for gone in client.delete_topics(sorted(names), request_timeout=CALL_S).values():
        try:
            gone.result(CALL_S)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise


def delete_records(bootstrap: str, topic: str, partition: int, before: int) -> None:
    """Move the start of a partition's log to an offset, as retention does."""
    client = AdminClient({"bootstrap.servers": bootstrap})
    for gone in client.delete_records([TopicPartition(topic, partition, before)]).values():
        gone.result(CALL_S)


def read_topic(
    bootstrap: str,
    topic: str,
    isolation: Isolation = "read_committed",
    *,
    rows: int = 0,
    quiet_s: float = 0.0,
    deadline_s: float = CALL_S,
) -> list[Message]:
    """Return the records of a topic, by partition and offset.

    Parameters
    ----------
    isolation
        read_committed ends at the last stable offset: before the first open transaction.
    rows
        Records to wait for, where they are still being written.
    quiet_s
        Time without a further record before the end counts: what should not be there is seen.
    """
    found: list[Message] = []
    at_end: set[int] = set()
    with Consumer(consumer_config(bootstrap, isolation)) as consumer:
        partitions = partitions_of(consumer, topic)
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
        newest = time.monotonic()

        def is_read() -> bool:
            nonlocal newest
            for message in consumer.consume(CHUNK_ROWS, 0.1):
                error = message.error()
                if error is None:
                    found.append(message)
                    newest = time.monotonic()
                elif error.code() == KafkaError._PARTITION_EOF:
                    at_end.add(message.partition() or 0)
            is_quiet = time.monotonic() >= newest + quiet_s
            return len(at_end) == len(partitions) and len(found) >= rows and is_quiet

        eventually(is_read, deadline_s, f"{topic} is read", every_s=0.0)
    return sorted(found, key=lambda m: (m.partition() or 0, m.offset() or 0))


def await_transactions(bootstrap: str, topic: str, deadline_s: float) -> None:
    """Wait until every transaction that is open now has been committed or aborted."""
    marks = end_offsets(bootstrap, topic, "read_uncommitted")

    def is_stable() -> bool:
        stable = end_offsets(bootstrap, topic, "read_committed")
        return all(stable[partition] >= mark for partition, mark in marks.items())

    eventually(is_stable, deadline_s, f"no transaction is open in {topic}")


def end_offsets(bootstrap: str, topic: str, isolation: Isolation) -> dict[int, int]:
    """Return the high watermark of each partition, or of read_committed the last stable offset."""
    with Consumer(consumer_config(bootstrap, isolation)) as consumer:
        ask = consumer.get_watermark_offsets
        return {
            partition: ask(TopicPartition(topic, partition), CALL_S)[1]
            for partition in partitions_of(consumer, topic)
        }


def partitions_of(consumer: Consumer, topic: str) -> list[int]:
    """Return the numbers of a topic's partitions."""
    return list(consumer.list_topics(topic, CALL_S).topics[topic].partitions)


def consumer_config(bootstrap: str, isolation: Isolation) -> dict[str, str | bool | int]:
    """Return the settings of a consumer without a group that waits for nothing."""
    return {
        "bootstrap.servers": bootstrap,
        "group.id": f"read-{uuid.uuid4().hex}",
        "isolation.level": isolation,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 50,
    }
