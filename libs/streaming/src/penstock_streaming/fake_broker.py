"""The in-memory broker behind the fakes of `testing`."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import (
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
    Uuid,
)

from penstock_streaming.dead_letter import Header


@dataclass(slots=True)
class FakeRecord:
    """A record on the fake broker."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int = 0
    headers: list[Header] = field(default_factory=list)


@dataclass(slots=True)
class Failure:
    """A scripted answer of a producer or consumer call.

    Parameters
    ----------
    error
        What the call raises.
    applied
        Whether the broker does the work nevertheless, as when only the answer is lost.
    """

    error: KafkaError
    applied: bool = False


class FakeBroker:
    """Topics, group offsets and scripted failures.

    Attributes
    ----------
    log
        Visible records of each topic, in order of commit.
    offsets
        Committed offset of each (topic, partition) of the one group.
    aborted
        Records of aborted transactions.
    starts
        First offset that is left of a partition, where that is not 0.
    topic_id
        Of every topic.
    topic_failure
        The answer to who asks for it instead.
    hindrances
        What the next producer meets in the background on its way to its transactional id.
    calls
        Names of the calls made, for assertions about order.
    """

    def __init__(self) -> None:
        self.log: dict[str, list[FakeRecord]] = defaultdict(list)
        self.offsets: dict[tuple[str, int], int] = {}
        self.aborted: list[FakeRecord] = []
        self.hindrances: list[KafkaError] = []
        self.calls: list[str] = []
        self.message_max_bytes = 4_000_000
        self.queue_rows: int | None = None
        self.starts: dict[int, int] = {}
        self.topic_id = Uuid(0, 1)
        self.topic_failure: KafkaError | None = None
        self._failures: dict[str, deque[Failure]] = defaultdict(deque)

    def add(self, topic: str, value: bytes | None, **facts: Any) -> None:
        """Append a visible record; facts are the other fields of `FakeRecord`."""
        self.log[topic].append(
            FakeRecord(topic, facts.pop("partition", 0), facts.pop("key", b"k"), value, **facts)
        )

    def fail(self, call: str, error: KafkaError, *, applied: bool = False) -> None:
        """Have the next call of that name fail; several are queued."""
        self._failures[call].append(Failure(error, applied))

    def perform(self, call: str, work: Callable[[], None]) -> None:
        """Do what a call does, or what is scripted for it."""
        self.calls.append(call)
        failure = self._failures[call].popleft() if self._failures[call] else None
        if failure is None or failure.applied:
            work()
        if failure is not None:
            raise KafkaException(failure.error)

    def partition(self, topic: str, partition: int) -> list[FakeRecord]:
        """Return the visible records of a partition."""
        return [r for r in self.log[topic] if r.partition == partition]

    def values(self, topic: str) -> list[bytes | None]:
        """Return the visible values of a topic."""
        return [r.value for r in self.log[topic]]

    def store(self, offsets: list[TopicPartition]) -> None:
        """Commit group offsets."""
        self.offsets.update({(tp.topic, tp.partition): tp.offset for tp in offsets})

    def gone(self, topic: str, partition: int, offset: int) -> Message:
        """Return the client's notice about an offset that the log does not have."""
        error = KafkaError(KafkaError._AUTO_OFFSET_RESET, "out of range")  # noqa: SLF001
        return Message(topic=topic, partition=partition, offset=offset, error=error)

    def message(self, topic: str, partition: int, offset: int) -> Message | None:
        """Return the message at an offset, if there is one."""
        records = self.partition(topic, partition)
        if offset >= len(records):
            return None
        record = records[offset]
        return Message(
            topic=topic,
            partition=partition,
            offset=offset,
            key=record.key,
            value=record.value,
            headers=list(record.headers),
            timestamp=(1, record.timestamp_ms),
        )


class FakeTopics:
    """Tells the ids of topics, at once."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker

    def describe_topics(
        self, topics: TopicCollection, *, request_timeout: float
    ) -> dict[str, Future[Any]]:
        """Return the id that the broker's topics have."""
        answer: Future[Any] = Future()
        if self._broker.topic_failure is not None:
            answer.set_exception(KafkaException(self._broker.topic_failure))
        else:
            answer.set_result(self._broker)
        return dict.fromkeys(topics.topic_names, answer)
