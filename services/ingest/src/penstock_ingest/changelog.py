"""Aggregates of a partition, rebuilt from the compacted changelog.

The reader is no member of a group. It reads committed records only, and up to the end that the
partition had including open transactions: what a dead predecessor left undecided is waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from penstock_features.aggregate_layout import AggregateLayout
from penstock_features.aggregates import AggregateTable
from penstock_features.state_codec import unpack_into
from penstock_schemas.errors import BrokerUnavailable
from penstock_streaming.deadline import Deadline
from penstock_streaming.errors import Verdict, error_of, translated, verdict
from penstock_streaming.settings import KafkaSettings

from penstock_ingest.metrics import IngestMetrics

logger = logging.getLogger(__name__)

POLL_S = 0.5
READ_ROWS = 10_000


class StateChangelog:
    """Reads the state of partitions back.

    Parameters
    ----------
    topic
        The changelog; its partitions are those of the events.
    layout
        Of the aggregates; state of another layout is left aside with a log line.
    """

    def __init__(
        self, kafka: KafkaSettings, topic: str, layout: AggregateLayout, metrics: IngestMetrics
    ) -> None:
        self._kafka = kafka
        self.topic = topic
        self._layout = layout
        self._metrics = metrics
        self._admin: Any = None

    def restore(self, partitions: Sequence[int], deadline_s: float) -> dict[int, AggregateTable]:
        """Return the committed state of partitions.

        Raises
        ------
        BrokerUnavailable
            If it cannot be read to its end within ``deadline_s`` seconds.
        """
        deadline = Deadline(deadline_s)
        ends = self._ends(partitions, deadline)
        latest = self._read({p: end for p, end in ends.items() if end > 0}, deadline)
        return {p: self._table(p, latest.get(p, {})) for p in partitions}

    def _ends(self, partitions: Sequence[int], deadline: Deadline) -> dict[int, int]:
        """Return the high watermarks, open transactions included."""
        if self._admin is None:
            config: dict[str, Any] = self._kafka.as_librdkafka()
            self._admin = AdminClient(config)
        timeout_s = max(0.1, min(deadline.remaining_s, self._kafka.request_timeout_s))
        end = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wanted = {TopicPartition(self.topic, p): end for p in partitions}
        try:
            answers = self._admin.list_offsets(
                wanted,
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=timeout_s,
            )
            # The client's own time-out ends the future; this one is for a client that does not.
            return {
                tp.partition: answer.result(timeout_s + 1).offset for tp, answer in answers.items()
            }
        except KafkaException as exc:
            # A broker that has restarted refuses the leader epoch that this client remembers, for
            # as long as it remembers it: the next attempt asks anew.
            self._admin = None
            error = error_of(exc)
            if error.code() == KafkaError._NOENT:  # noqa: SLF001 - the client's public name
                # Nor does it know partitions that were added since.
                text = f"{self.topic}: no leader of {sorted(partitions)} is known yet"
                raise BrokerUnavailable(text) from exc
            raise translated(error, f"looking for the end of {self.topic}") from exc
        except TimeoutError as exc:
            raise BrokerUnavailable(f"no end of {self.topic} in {timeout_s:.0f} s") from exc

    def _read(self, ends: Mapping[int, int], deadline: Deadline) -> dict[int, dict[bytes, bytes]]:
        latest: dict[int, dict[bytes, bytes]] = {p: {} for p in ends}
        left = dict(ends)
        if not left:
            return latest
        consumer = Consumer(self._config())
        try:
            consumer.assign([TopicPartition(self.topic, p, OFFSET_BEGINNING) for p in left])
            while left:
                if deadline.expired:
                    raise BrokerUnavailable(f"{self.topic}: end of {sorted(left)} not reached")
                first = consumer.poll(min(POLL_S, deadline.remaining_s))
                if first is not None:
                    for message in (first, *consumer.consume(READ_ROWS, 0)):
                        self._take(message, latest, left)
        finally:
            consumer.close()
        return latest

    def _take(
        self, message: Message, latest: dict[int, dict[bytes, bytes]], left: dict[int, int]
    ) -> None:
        partition, offset = message.partition() or 0, message.offset() or 0
        error = message.error()
        if error is None:
            key, value = message.key() or b"", message.value()
            if value is None:
                latest[partition].pop(key, None)
            else:
                latest[partition][key] = value
            offset += 1
        elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's public name
            if verdict(error) is Verdict.RETRY:
                return
            raise translated(error, f"reading {self.topic}")
        # An end-of-partition notice says how far there is nothing undecided.
        if offset >= left.get(partition, offset + 1):
            del left[partition]

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

    def _table(self, partition: int, latest: Mapping[bytes, bytes]) -> AggregateTable:
        table = AggregateTable(self._layout)
        ignored = unpack_into(table, list(latest), list(latest.values()))
        self._metrics.restored.inc(len(table))
        if ignored:
            self._metrics.ignored.inc(ignored)
            logger.warning(
                "%s/%d: aggregates of %d entities were made with other definitions than "
                "pipeline.yaml has now; they start anew",
                self.topic,
                partition,
                ignored,
            )
        return table
