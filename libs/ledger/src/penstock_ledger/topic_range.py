"""Reads a topic from given offsets to given offsets, as a foreign client in one of two views."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import methodcaller
from typing import Any, Final, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from penstock_schemas.errors import RetryableError

from penstock_ledger.records import Headers, RawRecord, RecordColumns

Isolation = Literal["read_committed", "read_uncommitted"]
Offsets = dict[int, int]
BATCH_ROWS: Final = 5_000
CONSUME_S: Final = 0.05
QUEUE_KIB: Final = 32 * 1024
# Through C: see penstock_streaming.dead_letters, where the same is done for the same reason.
_READ_HEADERS: Final[Any] = methodcaller("headers")


class LedgerUnreachable(RetryableError):
    """Kafka or the registry did not answer in time."""


@dataclass(frozen=True, slots=True)
class TopicRange:
    """A topic from given start offsets.

    Parameters
    ----------
    client
        More settings of the client, such as those of TLS and SASL.
    """

    bootstrap_servers: str
    topic: str
    start: Offsets
    client: Mapping[str, Any] = field(default_factory=dict)

    def batches(
        self, isolation: Isolation, end: Offsets, deadline: float
    ) -> Iterator[list[RawRecord]]:
        """Yield the records below ``end`` that the isolation level shows; as `columns`."""
        for batch in self.columns(isolation, end, deadline):
            yield batch.rows()

    def columns(
        self, isolation: Isolation, end: Offsets, deadline: float
    ) -> Iterator[RecordColumns]:
        """Yield the records below ``end`` that the isolation level shows, as columns.

        Parameters
        ----------
        deadline
            Monotonic seconds.

        Raises
        ------
        LedgerUnreachable
            If the ends are not reached in time.
        """
        open_partitions = {p for p, offset in end.items() if self.start[p] < offset}
        if not open_partitions:
            return
        settings = {**self.client, **consumer_config(self.bootstrap_servers, isolation)}
        consumer = Consumer(settings)
        try:
            consumer.assign([TopicPartition(self.topic, p, self.start[p]) for p in open_partitions])
            while open_partitions:
                if time.monotonic() > deadline:
                    raise LedgerUnreachable(f"{self.topic}: {isolation} read not done in time")
                messages = consumer.consume(BATCH_ROWS, timeout=CONSUME_S)
                batch = [m for m in messages if _is_record(m, end, open_partitions)]
                if batch:
                    yield record_columns(batch)
        except KafkaException as exc:
            raise LedgerUnreachable(f"{self.topic}: {exc}") from exc
        finally:
            consumer.close()


def consumer_config(bootstrap_servers: str, isolation: Isolation) -> dict[str, Any]:
    """Return the settings of a consumer that leaves no trace on the broker."""
    return {
        "bootstrap.servers": bootstrap_servers,
        "group.id": "penstock-ledger",  # required by the client; no offset is ever committed
        "enable.auto.commit": False,
        "isolation.level": isolation,
        "enable.partition.eof": True,  # control records at the end are only visible as an EOF
        "auto.offset.reset": "error",
        "queued.max.messages.kbytes": QUEUE_KIB,
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 20,  # an end mark comes with an empty fetch: do not wait for more
    }


def _is_record(message: Message, end: Offsets, open_partitions: set[int]) -> bool:
    """Tell records from end marks; forget a partition once its end is reached."""
    error, partition, offset = message.error(), message.partition(), message.offset()
    if error is not None and error.code() in (
        KafkaError._TRANSPORT,  # noqa: SLF001 - its public name
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
    ):
        return False  # the client goes on by itself; the deadline ends it
    if partition is None or offset is None:
        raise LedgerUnreachable(f"message without a position: {error}")
    if error is not None:
        if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            raise LedgerUnreachable(f"{message.topic()}/{partition}: {error.str()}")
        if offset >= end[partition]:
            open_partitions.discard(partition)
        return False
    if offset + 1 >= end[partition]:
        open_partitions.discard(partition)
    return offset < end[partition]


def record_columns(messages: list[Message]) -> RecordColumns:
    """Return messages of the client as columns."""
    return RecordColumns(
        [m.partition() or 0 for m in messages],
        [m.offset() or 0 for m in messages],
        [m.key() for m in messages],
        [m.value() for m in messages],
        [m.timestamp()[1] for m in messages],
        [_headers(m) for m in messages],
    )


def raw_record(message: Message) -> RawRecord:
    """Return a message of the client as a plain value."""
    return record_columns([message]).row(0)


def _headers(message: Message) -> Headers | None:
    """Return the headers; None where a name is not UTF-8, which hides all of them."""
    try:
        found = _READ_HEADERS(message)
    except (UnicodeDecodeError, SystemError):
        return None
    if not found:
        return ()
    pairs = found.items() if isinstance(found, dict) else found
    return tuple((name, v.encode() if isinstance(v, str) else v) for name, v in pairs)
