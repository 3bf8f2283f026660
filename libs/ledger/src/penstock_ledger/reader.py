"""Copies what a foreign Kafka client sees into a store; nothing of the project is used."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from penstock_ledger.decoding import RecordDecoder
from penstock_ledger.records import ROLES, LedgerTopics, RawRecord, Service
from penstock_ledger.store import Store

Isolation = Literal["read_committed", "read_uncommitted"]
End = Literal["first", "last"]
Offsets = dict[int, int]
CALL_TIMEOUT_S: Final = 10.0
BATCH_ROWS: Final = 5_000
SERVICES: Final[tuple[Service, ...]] = ("inference", "ingest")


class LedgerUnreachable(Exception):
    """Kafka or the registry did not answer in time."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Where and how much to read.

    Parameters
    ----------
    registry_url
        Base URL of the Confluent-compatible schema API.
    start
        First offset per topic and partition; the log's beginning where none is given.
    timeout_s
        Time for the whole read.
    """

    bootstrap_servers: str
    registry_url: str
    start: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    timeout_s: float = 120.0


class LogClient:
    """A few reading calls of the Kafka admin client, each with a deadline."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._bootstrap = bootstrap_servers
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})

    def partitions(self, topic: str) -> list[int]:
        """Return the partition numbers of a topic, none if it does not exist."""
        metadata = self._admin.list_topics(topic, timeout=CALL_TIMEOUT_S).topics[topic]
        return [] if metadata.error is not None else sorted(metadata.partitions)

    def offsets(self, topic: str, end: End, isolation: Isolation) -> Offsets:
        """Return the offset of each partition: its beginning, or its end as a view sees it."""
        level = (
            IsolationLevel.READ_COMMITTED
            if isolation == "read_committed"
            else IsolationLevel.READ_UNCOMMITTED
        )
        at: OffsetSpec = OffsetSpec.earliest() if end == "first" else OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(topic, p): at for p in self.partitions(topic)}
        if not asked:
            return {}
        answers = self._admin.list_offsets(
            asked, isolation_level=level, request_timeout=CALL_TIMEOUT_S
        )
        return {p.partition: f.result(CALL_TIMEOUT_S).offset for p, f in answers.items()}

    def committed(self, group: str, topic: str, *, stable: bool = False) -> Offsets:
        """Return the committed offsets of a group; partitions without one are left out.

        Parameters
        ----------
        stable
            Wait for offsets that a transaction in its commit has not published yet.
        """
        asked = [TopicPartition(topic, p) for p in self.partitions(topic)]
        answer = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, asked)],
            require_stable=stable,
            request_timeout=CALL_TIMEOUT_S,
        )
        found = answer[group].result(CALL_TIMEOUT_S).topic_partitions
        return {p.partition: p.offset for p in found if p.offset != OFFSET_INVALID}

    def marks(self, topics: LedgerTopics) -> dict[str, Offsets]:
        """Return the present end of every topic of the pipeline, to start a window there."""
        return {
            (name := topics.name(role)): self.offsets(name, "last", "read_uncommitted")
            for role in ROLES
        }


def schema_reader(registry_url: str) -> Callable[[int], str]:
    """Return a function from registry id to schema text, as `RecordDecoder` wants it."""

    def schema_text(schema_id: int) -> str:
        url = f"{registry_url.rstrip('/')}/schemas/ids/{schema_id}"
        if not url.startswith(("http://", "https://")):
            raise LedgerUnreachable(f"not an http address: {registry_url}")
        try:
            with urllib.request.urlopen(url, timeout=CALL_TIMEOUT_S) as answer:  # noqa: S310
                return str(json.load(answer)["schema"])
        except urllib.error.HTTPError as exc:
            raise LookupError(f"registry answers {exc.code}") from exc
        except OSError as exc:
            raise LedgerUnreachable(f"registry {registry_url}: {exc}") from exc

    return schema_text


def read_pipeline(store: Store, options: ReadOptions) -> None:
    """Read the pipeline's topics in both views, and the committed offsets, into ``store``.

    A log that still grows can be read: ends are taken once per topic, between two looks at the
    committed offsets, and downstream topics are read before those they refer to.

    Raises
    ------
    LedgerUnreachable
        If a broker or the registry does not answer, or the time is up.
    """
    deadline = time.monotonic() + options.timeout_s
    client = LogClient(options.bootstrap_servers)
    decoder = RecordDecoder(schema_reader(options.registry_url))
    topics = store.topics
    before = {service: _committed(client, topics, service, False) for service in SERVICES}
    for role in reversed(ROLES):
        name = topics.name(role)
        high = client.offsets(name, "last", "read_uncommitted")
        stable = client.offsets(name, "last", "read_committed")
        first = client.offsets(name, "first", "read_uncommitted")
        start = {p: max(first[p], options.start.get(name, {}).get(p, 0)) for p in high}
        for p in high:
            store.add_span(role, p, start[p], high[p], stable[p])
        read = TopicRange(options.bootstrap_servers, name, start)
        for batch in read.batches("read_uncommitted", high, deadline):
            store.add_sightings("uncommitted", role, batch)
        for batch in read.batches("read_committed", stable, deadline):
            store.add_committed_records(role, batch, decoder)
    for service in SERVICES:
        after = _committed(client, topics, service, True)
        store.add_committed(service, before[service], after)


def _committed(client: LogClient, topics: LedgerTopics, service: Service, stable: bool) -> Offsets:
    source = topics.name(topics.input_role(service))
    return client.committed(topics.group(service), source, stable=stable)


@dataclass(frozen=True, slots=True)
class TopicRange:
    """A topic from given start offsets."""

    bootstrap_servers: str
    topic: str
    start: Offsets

    def batches(
        self, isolation: Isolation, end: Offsets, deadline: float
    ) -> Iterator[list[RawRecord]]:
        """Yield the records below ``end`` that the isolation level shows."""
        open_partitions = {p for p, offset in end.items() if self.start[p] < offset}
        if not open_partitions:
            return
        consumer = Consumer(consumer_config(self.bootstrap_servers, isolation))
        try:
            consumer.assign([TopicPartition(self.topic, p, self.start[p]) for p in open_partitions])
            while open_partitions:
                if time.monotonic() > deadline:
                    raise LedgerUnreachable(f"{self.topic}: {isolation} read not done in time")
                messages = consumer.consume(BATCH_ROWS, timeout=0.05)
                batch = [m for m in messages if _is_record(m, end, open_partitions)]
                if batch:
                    yield [raw_record(m) for m in batch]
        finally:
            consumer.close()


def consumer_config(bootstrap_servers: str, isolation: Isolation) -> dict[str, object]:
    """Return the settings of a consumer that leaves no trace on the broker."""
    return {
        "bootstrap.servers": bootstrap_servers,
        "group.id": "penstock-ledger",  # required by the client; no offset is ever committed
        "enable.auto.commit": False,
        "isolation.level": isolation,
        "enable.partition.eof": True,  # control records at the end are only visible as an EOF
        "auto.offset.reset": "error",
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 20,  # an end mark comes with an empty fetch: do not wait for more
    }


def _is_record(message: Message, end: Offsets, open_partitions: set[int]) -> bool:
    """Tell records from end marks; forget a partition once its end is reached."""
    error, partition, offset = message.error(), message.partition(), message.offset()
    if partition is None or offset is None:
        raise LedgerUnreachable(f"message without a position: {error}")
    if error is not None:
        if error.code() != KafkaError._PARTITION_EOF:
            raise LedgerUnreachable(f"{message.topic()}/{partition}: {error.str()}")
        if offset >= end[partition]:
            open_partitions.discard(partition)
        return False
    if offset + 1 >= end[partition]:
        open_partitions.discard(partition)
    return offset < end[partition]


def raw_record(message: Message) -> RawRecord:
    """Return a message of the client as a plain value."""
    partition, offset = message.partition(), message.offset()
    if partition is None or offset is None:
        raise LedgerUnreachable("message without a position")
    found = message.headers() or []
    pairs = found.items() if isinstance(found, dict) else found
    headers = tuple((name, v.encode() if isinstance(v, str) else v) for name, v in pairs)
    return RawRecord(
        partition, offset, message.key(), message.value(), message.timestamp()[1], headers
    )
