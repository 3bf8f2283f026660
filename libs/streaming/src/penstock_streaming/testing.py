"""Fakes with the client's surface, for tests of decisions without a network.

They keep what the loop relies on: a transaction's records and offsets become visible together or
not at all, a paused partition returns nothing, callbacks run inside poll. They prove nothing about
a real broker; the integration tests do. Nothing here sleeps or starts a thread.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
    Uuid,
)

from penstock_streaming.clients import RebalanceCallback
from penstock_streaming.dead_letters import Header


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


class FakeProducer:
    """The producer's surface, transactional or not by its configuration."""

    def __init__(self, broker: FakeBroker, config: dict[str, Any]) -> None:
        self.config = config
        self._broker = broker
        self._is_transactional = "transactional.id" in config
        self._records: list[FakeRecord] = []
        self._offsets: list[TopicPartition] = []
        self._queued = 0
        self.met: list[KafkaError] = []
        """What the client meets in the background, told when it is served."""

    def init_transactions(self, timeout: float) -> None:
        """Take the transactional id, meeting what the broker holds ready."""
        self.met += self._broker.hindrances
        self._broker.hindrances.clear()
        self._broker.perform("init_transactions", lambda: None)

    def begin_transaction(self) -> None:
        """Open."""
        self._broker.perform("begin_transaction", lambda: None)

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int = -1,
        timestamp: int = 0,
        headers: Sequence[Header] | None = None,
    ) -> None:
        """Queue."""
        if self._broker.queue_rows is not None and self._queued >= self._broker.queue_rows:
            raise BufferError("queue full")
        if len(value or b"") > self._broker.message_max_bytes:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        record = FakeRecord(topic, partition, key, value, timestamp, list(headers or ()))
        self._broker.perform("produce", lambda: self._records.append(record))
        self._queued += 1

    def poll(self, timeout: float) -> int:
        """Make room in the queue."""
        self._queued = 0
        self._broker.perform("poll", lambda: None)
        while self.met:
            self.config["error_cb"](self.met.pop(0))
        return 0

    def flush(self, timeout: float) -> int:
        """Deliver; a scripted ``flush`` failure goes to the delivery callback."""
        self._queued = 0
        if self._is_transactional:
            self._broker.perform("flush", lambda: None)  # stays invisible until the commit
            return 0
        try:
            self._broker.perform("flush", self._deliver)
        except KafkaException as exc:
            self.config["on_delivery"](exc.args[0], None)
        return 0

    def purge(self) -> None:
        """Drop what is queued."""
        self._broker.calls.append("purge")
        self._records.clear()

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: object, timeout: float
    ) -> None:
        """Add offsets."""
        work = self._offsets.extend
        self._broker.perform("send_offsets_to_transaction", lambda: work(positions))

    def commit_transaction(self, timeout: float) -> None:
        """Make records and offsets visible."""
        self._broker.perform("commit_transaction", self._deliver)

    def abort_transaction(self, timeout: float) -> None:
        """Drop records and offsets."""

        def work() -> None:
            self._broker.aborted.extend(self._records)
            self._records.clear()
            self._offsets.clear()

        self._broker.perform("abort_transaction", work)

    def _deliver(self) -> None:
        for record in self._records:
            self._broker.log[record.topic].append(record)
        self._broker.store(self._offsets)
        self._records.clear()
        self._offsets.clear()


class FakeConsumer:
    """The consumer's surface; a test rebalances it by `assign`, `revoke` and `lose`."""

    def __init__(self, broker: FakeBroker, config: dict[str, Any]) -> None:
        self.config = config
        self.paused: set[int] = set()
        self.next: dict[int, int] = {}
        self.member = "member-1"
        self.is_closed = False
        self._broker = broker
        self._topic = ""
        self._callbacks: dict[str, RebalanceCallback] = {}
        self._pending: deque[tuple[str, list[int]]] = deque()

    def assign(self, *partitions: int) -> None:
        """Have the next poll assign partitions."""
        self._pending.append(("on_assign", list(partitions)))

    def revoke(self, *partitions: int) -> None:
        """Have the next poll revoke partitions."""
        self._pending.append(("on_revoke", list(partitions)))

    def lose(self, *partitions: int) -> None:
        """Have the next poll report partitions lost."""
        self._pending.append(("on_lost", list(partitions)))

    def subscribe(self, topics: list[str], **callbacks: RebalanceCallback) -> None:
        """Remember topic and callbacks."""
        self._topic = topics[0]
        self._callbacks = callbacks

    def poll(self, timeout: float) -> Message | None:
        """Serve the rebalances, then return a message."""
        while self._pending:
            kind, numbers = self._pending.popleft()
            partitions = [TopicPartition(self._topic, p) for p in numbers]
            self._callbacks[kind](self, partitions)
            if kind != "on_assign":
                for p in numbers:
                    self.next.pop(p, None)
        return self._take()

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        """Return what is there."""
        found: list[Message] = []
        while len(found) < num_messages and (message := self._take()) is not None:
            found.append(message)
        return found

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        """Start at the committed offsets."""
        for tp in partitions:
            self.next[tp.partition] = self._broker.offsets.get((tp.topic, tp.partition), 0)

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        """Return no more of them."""
        for tp in partitions:
            self.next.pop(tp.partition, None)

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Hold partitions back."""
        self.paused.update(tp.partition for tp in partitions)

    def resume(self, partitions: list[TopicPartition]) -> None:
        """Let partitions flow."""
        self.paused.difference_update(tp.partition for tp in partitions)

    def seek(self, partition: TopicPartition) -> None:
        """Go on elsewhere."""
        if partition.partition not in self.next:
            raise KafkaException(KafkaError(KafkaError._STATE))  # noqa: SLF001
        self.next[partition.partition] = max(0, partition.offset)

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """Return the broker's offsets."""
        self._broker.perform("committed", lambda: None)
        get = self._broker.offsets.get
        return [
            TopicPartition(tp.topic, tp.partition, get((tp.topic, tp.partition), OFFSET_INVALID))
            for tp in partitions
        ]

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Return where the next message comes from."""
        return [
            TopicPartition(tp.topic, tp.partition, self.next.get(tp.partition, OFFSET_INVALID))
            for tp in partitions
        ]

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        """Commit without a transaction."""
        self._broker.perform("commit", lambda: self._broker.store(offsets))
        return offsets

    def consumer_group_metadata(self) -> object:
        """Return what a real one keeps to itself."""
        return ("metadata", self.member)

    def memberid(self) -> str:
        """Return the member id that the test has set."""
        return self.member

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        """Return the ends of the log."""
        count = len(self._broker.partition(partition.topic, partition.partition))
        return self._broker.starts.get(partition.partition, 0), count

    def close(self) -> None:
        """Leave."""
        self.is_closed = True

    def _take(self) -> Message | None:
        for p in sorted(self.next):
            if p not in self.paused and self.next[p] < self._broker.starts.get(p, 0):
                return self._broker.gone(self._topic, p, self.next[p])
            message = self._broker.message(self._topic, p, self.next[p])
            if p not in self.paused and message is not None:
                self.next[p] += 1
                return message
        return None


class FakeClients:
    """Makes fakes on one broker and keeps them."""

    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.consumers: list[FakeConsumer] = []
        self.producers: list[FakeProducer] = []

    def consumer(self, config: dict[str, Any]) -> FakeConsumer:
        """Return a new fake consumer."""
        self.consumers.append(FakeConsumer(self.broker, config))
        return self.consumers[-1]

    def producer(self, config: dict[str, Any]) -> FakeProducer:
        """Return a new fake producer."""
        self.producers.append(FakeProducer(self.broker, config))
        return self.producers[-1]

    def topics(self, config: dict[str, Any]) -> FakeTopics:
        """Return a new fake admin client."""
        return FakeTopics(self.broker)
