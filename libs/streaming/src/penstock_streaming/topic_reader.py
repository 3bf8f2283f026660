"""Partitions of a topic read back up to their ends, without a group.

Committed records only, up to the end that a partition had including open transactions: what a dead
predecessor left undecided is waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
from penstock_schemas.errors import BrokerUnavailable

from penstock_streaming.errors import Verdict, error_of, translated, verdict
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

_POLL_S: Final = 0.5
_READ_ROWS: Final = 10_000


class TopicReader:
    """Reads one topic; each read has a client of its own.

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

    def starts(self, partitions: Iterable[int], deadline: Deadline) -> dict[int, int]:
        """Return the first offset of partitions; errors as `ends`."""
        return self._offsets(partitions, OffsetSpec.earliest(), deadline)  # type: ignore[no-untyped-call]

    def ends(self, partitions: Iterable[int], deadline: Deadline) -> dict[int, int]:
        """Return the end of partitions, open transactions included.

        Raises
        ------
        BrokerUnavailable
            If no broker answers in time, or none knows the partitions yet.
        """
        return self._offsets(partitions, OffsetSpec.latest(), deadline)  # type: ignore[no-untyped-call]

    def read(
        self, spans: Mapping[int, tuple[int, int]], deadline: Deadline
    ) -> Iterator[list[Message]]:
        """Yield the committed records of spans, in order within a partition.

        Parameters
        ----------
        spans
            The first offset and the end, exclusive, by partition.

        Raises
        ------
        BrokerUnavailable
            If the ends are not reached in time.
        """
        left = {p: end for p, (start, end) in spans.items() if start < end}
        if not left:
            return
        consumer = Consumer(self._config())
        try:
            consumer.assign([TopicPartition(self.topic, p, spans[p][0]) for p in left])
            while left:
                if deadline.expired:
                    raise BrokerUnavailable(f"{self.topic}: the end of {sorted(left)} not reached")
                first = consumer.poll(min(_POLL_S, deadline.remaining_s))
                if first is None:
                    continue
                fetched = (first, *consumer.consume(_READ_ROWS, 0))
                messages = [m for m in fetched if self._is_wanted(m, spans, left)]
                if messages:
                    yield messages
        finally:
            consumer.close()

    def _is_wanted(
        self, message: Message, spans: Mapping[int, tuple[int, int]], left: dict[int, int]
    ) -> bool:
        """Tell whether a message is a record before its end; forget a partition that is read."""
        partition, offset = message.partition() or 0, message.offset() or 0
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            if verdict(error) is Verdict.RETRY:
                return False
            raise translated(error, f"reading {self.topic}")
        # A notice of the end says how far there is nothing undecided.
        passed = offset + 1 if error is None else offset
        if passed >= left.get(partition, passed + 1):
            del left[partition]
        return error is None and offset < spans[partition][1]

    def _offsets(self, partitions: Iterable[int], spec: Any, deadline: Deadline) -> dict[int, int]:
        if self._admin is None:
            config: dict[str, Any] = self._kafka.as_librdkafka()
            self._admin = AdminClient(config)
        timeout_s = max(0.1, min(deadline.remaining_s, self._kafka.request_timeout_s))
        wanted = {TopicPartition(self.topic, p): spec for p in partitions}
        try:
            answers = self._admin.list_offsets(
                wanted,
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=timeout_s,
            )
            # The client's own time-out ends the future; this one is for a client that does not.
            return {
                place.partition: int(answer.result(timeout_s + 1).offset)
                for place, answer in answers.items()
            }
        except KafkaException as exc:
            # A broker that has restarted refuses the leader epoch that this client remembers, for
            # as long as it remembers it: the next attempt asks anew.
            self._admin = None
            error = error_of(exc)
            if error.code() == KafkaError._NOENT:  # noqa: SLF001 - the client's public name
                # Nor does it know partitions that were added since.
                text = f"{self.topic}: no leader of {sorted(p.partition for p in wanted)} is known"
                raise BrokerUnavailable(text) from exc
            raise translated(error, f"looking for the end of {self.topic}") from exc
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
