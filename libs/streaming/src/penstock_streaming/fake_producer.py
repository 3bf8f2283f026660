"""The producer of the fakes of `testing`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from penstock_streaming.dead_letter import Header
from penstock_streaming.fake_broker import FakeBroker, FakeRecord


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
