"""Reading back: the newest snapshot, and observations again by their offsets.

The readers are no members of a group and read committed records only. The end to read up to
includes open transactions: what a dead predecessor left undecided is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from penstock_monitoring.observations import PARTITION
from penstock_schemas.errors import BrokerUnavailable
from penstock_streaming.errors import ErrorCategory, category_of, error_of, penstock_error
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

POLL_S: Final = 0.5
READ_ROWS: Final = 10_000
FIRST_LOOK: Final = 32
"""Offsets before the end in which the newest snapshot is looked for first: the topic may hold
hundreds of megabytes that compaction has not come to."""


class PartitionLog:
    """The one partition of a topic.

    Parameters
    ----------
    kafka
        The cluster.
    topic
        Its name.
    """

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self._kafka = kafka
        self._admin: Any = None
        self.topic = topic

    def range(self, deadline: Deadline) -> tuple[int, int]:
        """Return the first offset and the end, open transactions included.

        Raises
        ------
        BrokerUnavailable
            If no broker answers in time.
        """
        earliest = self._offset(OffsetSpec.earliest(), deadline)  # type: ignore[no-untyped-call]
        return earliest, self._offset(OffsetSpec.latest(), deadline)  # type: ignore[no-untyped-call]

    def newest(self, deadline: Deadline) -> Message | None:
        """Return the newest committed record with a value, or None.

        Raises
        ------
        BrokerUnavailable
            If it cannot be read in time.
        """
        first, end = self.range(deadline)
        look = FIRST_LOOK
        while end > first:
            start = max(first, end - look)
            found = None
            for messages in self.read(start, end, deadline):
                found = next((m for m in reversed(messages) if m.value() is not None), found)
            if found is not None or start == first:
                return found
            look *= 8
        return None

    def read(self, start: int, end: int, deadline: Deadline) -> Iterator[list[Message]]:
        """Yield the committed records from ``start`` to before ``end``, in order.

        Raises
        ------
        BrokerUnavailable
            If the end is not reached in time.
        """
        if start >= end:
            return
        consumer = Consumer(self._config())
        try:
            consumer.assign([TopicPartition(self.topic, PARTITION, start)])
            is_done = False
            while not is_done:
                if deadline.expired:
                    raise BrokerUnavailable(f"{self.topic}: offset {end} is not reached in time")
                first = consumer.poll(min(POLL_S, deadline.remaining_s))
                if first is None:
                    continue
                messages: list[Message] = []
                for message in (first, *consumer.consume(READ_ROWS, 0)):
                    offset = self._offset_after(message)
                    is_done = is_done or offset >= end
                    if message.error() is None and (message.offset() or 0) < end:
                        messages.append(message)
                if messages:
                    yield messages
        finally:
            consumer.close()

    def _offset_after(self, message: Message) -> int:
        """Return how far there is nothing undecided, or -1 where the record does not say."""
        error, offset = message.error(), message.offset() or 0
        if error is None:
            return offset + 1
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's public name
            return offset
        if category_of(error) is ErrorCategory.RETRY:
            return -1
        raise penstock_error(error, f"reading {self.topic}")

    def _offset(self, spec: Any, deadline: Deadline) -> int:
        if self._admin is None:
            config: dict[str, Any] = self._kafka.as_librdkafka()
            self._admin = AdminClient(config)
        timeout_s = max(0.1, min(deadline.remaining_s, self._kafka.request_timeout_s))
        place = TopicPartition(self.topic, PARTITION)
        try:
            answers = self._admin.list_offsets(
                {place: spec},
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=timeout_s,
            )
            # The client's own time-out ends the future; this one is for a client that does not.
            return int(answers[place].result(timeout_s + 1).offset)
        except KafkaException as exc:
            # A broker that has restarted refuses the leader epoch that this client remembers, for
            # as long as it remembers it: the next attempt asks anew.
            self._admin = None
            raise penstock_error(error_of(exc), f"looking for the end of {self.topic}") from exc
        except TimeoutError as exc:
            raise BrokerUnavailable(f"no end of {self.topic} in {timeout_s:.0f} s") from exc

    def _config(self) -> dict[str, Any]:
        return {
            **self._kafka.as_librdkafka(),
            "group.id": f"{self.topic}.restore",  # demanded by the client, never joined
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 10,
            "fetch.wait.max.ms": 50,
        }
