"""A few reading calls of the Kafka admin client, each with a deadline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from typing import Any, Final, Literal

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from penstock_ledger.records import ROLES, LedgerTopics
from penstock_ledger.topic_range import Isolation, LedgerUnreachable, Offsets

End = Literal["first", "last"]
CALL_TIMEOUT_S: Final = 10.0


@contextmanager
def _reaching(what: str) -> Iterator[None]:
    """Say that Kafka is unreachable where its client says something else."""
    try:
        yield
    except (KafkaException, FutureTimeoutError, TimeoutError) as exc:
        raise LedgerUnreachable(f"{what}: {exc or type(exc).__name__}") from exc


class LogClient:
    """What is asked of the broker about topics and groups.

    Parameters
    ----------
    client
        More settings of the client, such as those of TLS and SASL.
    """

    def __init__(self, bootstrap_servers: str, client: Mapping[str, Any] | None = None) -> None:
        own: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
        self._settings = {**(client or {}), **own}
        self._admin = AdminClient(self._settings)

    def partitions(self, topic: str) -> list[int]:
        """Return the partition numbers of a topic, none if it does not exist."""
        with _reaching(f"topic {topic}"):
            # Of all topics: to ask for one by name may create it.
            metadata = self._admin.list_topics(timeout=CALL_TIMEOUT_S).topics.get(topic)
        return [] if metadata is None or metadata.error is not None else sorted(metadata.partitions)

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
        return self._offsets(asked, level)

    def offsets_at(self, topic: str, at_ms: int) -> Offsets:
        """Return the first offset of each partition with a timestamp from ``at_ms`` on.

        The end of the partition where there is none.
        """
        at: OffsetSpec = OffsetSpec.for_timestamp(at_ms)
        asked = {TopicPartition(topic, p): at for p in self.partitions(topic)}
        found = self._offsets(asked, IsolationLevel.READ_UNCOMMITTED)
        if all(offset >= 0 for offset in found.values()):
            return found
        end = self.offsets(topic, "last", "read_uncommitted")
        return {p: offset if offset >= 0 else end[p] for p, offset in found.items()}

    def _offsets(self, asked: dict[TopicPartition, OffsetSpec], level: IsolationLevel) -> Offsets:
        with _reaching("offsets"):
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
        # Not by the admin client's list_consumer_group_offsets: librdkafka 2.16 dies of SIGSEGV in
        # it (rd_kafka_handle_OffsetFetch) when the group's coordinator moves meanwhile.
        consumer = Consumer(
            {
                **self._settings,
                "group.id": group,  # never joined
                "enable.auto.commit": False,
                # What makes this client ask for stable offsets.
                "isolation.level": "read_committed" if stable else "read_uncommitted",
            }
        )
        try:
            with _reaching(f"offsets of group {group}"):
                found = consumer.committed(asked, CALL_TIMEOUT_S) if asked else []
                for error in filter(None, (p.error for p in found)):
                    raise KafkaException(error)
        finally:
            consumer.close()
        return {p.partition: p.offset for p in found if p.offset != OFFSET_INVALID}

    def marks(self, topics: LedgerTopics) -> dict[str, Offsets]:
        """Return the present end of every topic of the pipeline, to start a window there."""
        return {
            (name := topics.name(role)): self.offsets(name, "last", "read_uncommitted")
            for role in ROLES
        }
