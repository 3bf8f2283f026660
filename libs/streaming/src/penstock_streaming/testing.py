"""Fakes with the client's surface, for tests of decisions without a network.

They keep what the loop relies on: a transaction's records and offsets become visible together or
not at all, a paused partition returns nothing, callbacks run inside poll. They prove nothing about
a real broker; the integration tests do. Nothing here sleeps or starts a thread.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from penstock_streaming.clients import RebalanceCallback
from penstock_streaming.fake_broker import FakeBroker, FakeRecord, FakeTopics
from penstock_streaming.fake_producer import FakeProducer

__all__ = ["FakeBroker", "FakeClients", "FakeConsumer", "FakeProducer", "FakeRecord"]


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
