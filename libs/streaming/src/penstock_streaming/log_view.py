"""Topics read as logs: to their ends, a range of offsets, the newest record, or as they grow.

No consumer group is joined and no offset committed. Only committed records are returned
(``isolation.level=read_committed``); records of aborted transactions and control records are
skipped, and their offsets count as read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]
from penstock_schemas.errors import BrokerUnavailable, ConfigError

from penstock_streaming.admin import admin_client
from penstock_streaming.errors import (
    ErrorCategory,
    category_of,
    client_errors,
    error_of,
    penstock_error,
)
from penstock_streaming.settings import MESSAGE_MAX_BYTES, KafkaSettings
from penstock_streaming.timing import Deadline

Partition = tuple[str, int]
"""Topic and number of a partition."""
Offsets = Mapping[Partition, int]

SILENCE_S: Final = 60.0
"""Longest time without progress before a read fails; an open transaction of another producer, which
holds back everything behind it, is aborted by its broker within that time, seconds."""
_POLL_S: Final = 0.5
_BATCH_ROWS: Final = 10_000
_NEWEST_WITHIN: Final = 32
"""Offsets before the end in which the newest record is looked for first: a compacted topic may hold
hundreds of megabytes that the log cleaner has not come to."""


class RecordsGone(ConfigError):
    """Records that were to be read have been deleted by retention."""


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of one partition: ``first`` is the first, ``end`` the one after the last."""

    first: int
    end: int

    def __contains__(self, offset: int) -> bool:
        return self.first <= offset < self.end

    @property
    def offsets(self) -> int:
        """How many offsets; records may be fewer."""
        return max(0, self.end - self.first)


class LogView:
    """Reads topics of one cluster; each read has a consumer of its own.

    Methods may be called on different threads, but those that ask for offsets or partitions not on
    two at once.

    Parameters
    ----------
    gap
        What to do where the first offset of a read has been deleted: ``skip`` begins with what is
        left, ``error`` raises RecordsGone.
    silence_s
        Longest time without progress where a read has no deadline, seconds.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        gap: Literal["skip", "error"] = "skip",
        silence_s: float = SILENCE_S,
    ) -> None:
        self._kafka = kafka
        self._gap = gap
        self._silence_s = silence_s
        self._admin: Any = None

    def topic_names(self) -> frozenset[str]:
        """Return the names of all topics; errors as `partitions`."""
        return frozenset(self._metadata("the topics"))

    def partitions(self, *topics: str) -> list[Partition]:
        """Return the partitions of topics.

        Raises
        ------
        BrokerUnavailable
            If no broker answers in time.
        ConfigError
            If a topic does not exist.
        """
        there = self._metadata(", ".join(topics))
        for topic in topics:
            if topic not in there or not there[topic].partitions:
                raise ConfigError(f"topic {topic!r} does not exist: penstock topics apply")
        return [(topic, number) for topic in topics for number in sorted(there[topic].partitions)]

    def _metadata(self, what: str) -> dict[str, Any]:
        with client_errors(f"looking for {what}"):
            metadata = self._admin_client().list_topics(timeout=self._kafka.request_timeout_s)
        return dict(metadata.topics)

    def begin_offsets(
        self, partitions: Iterable[Partition], deadline: Deadline | None = None
    ) -> dict[Partition, int]:
        """Return the first offset that partitions hold; errors as `end_offsets`."""
        return self._offsets(partitions, OffsetSpec.earliest(), deadline)  # type: ignore[no-untyped-call]

    def end_offsets(
        self,
        partitions: Iterable[Partition],
        deadline: Deadline | None = None,
        *,
        committed: bool = False,
    ) -> dict[Partition, int]:
        """Return the end of partitions: the high watermark, open transactions included.

        A read up to it waits for what a writer that has died left undecided.

        Parameters
        ----------
        committed
            Return the last stable offset instead: nothing before it is undecided.

        Raises
        ------
        BrokerUnavailable
            If no broker answers in time, or none knows the partitions yet.
        """
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        return self._offsets(partitions, latest, deadline, committed=committed)

    def offsets_at(
        self, partitions: Iterable[Partition], at_ms: int, deadline: Deadline | None = None
    ) -> dict[Partition, int]:
        """Return the first offset whose timestamp is not before ``at_ms``; errors as `end_offsets`.

        A partition without such a record is missing in the answer.
        """
        spec = OffsetSpec.for_timestamp(at_ms)
        found = self._offsets(partitions, spec, deadline, committed=True)
        return {p: offset for p, offset in found.items() if offset >= 0}

    def read(
        self, spans: Mapping[Partition, Span], deadline: Deadline | None = None
    ) -> Iterator[list[Message]]:
        """Yield the committed records of spans in batches, in order within a partition.

        Parameters
        ----------
        deadline
            Of the whole read; without one the read may go `silence_s` without progress. The time
            that the caller takes for a batch is no silence.

        Raises
        ------
        BrokerUnavailable
            If the ends are not reached in time.
        RecordsGone
            If retention has deleted a first offset, and ``gap`` is ``error``.
        """
        wanted = {p: span for p, span in spans.items() if span.first < span.end}
        starts = {p: span.first for p, span in wanted.items()}
        return self._read(starts, {p: span.end for p, span in wanted.items()}, deadline)

    def read_to_end(
        self, partitions: Iterable[Partition], deadline: Deadline | None = None
    ) -> Iterator[list[Message]]:
        """Yield all committed records up to the last stable offset; arguments as `read`."""
        starts = dict.fromkeys(partitions, OFFSET_BEGINNING)
        return self._read(starts, dict.fromkeys(starts), deadline)

    def newest(self, partition: Partition, deadline: Deadline | None = None) -> Message | None:
        """Return the newest committed record with a value, or None; errors as `read`."""
        first = self.begin_offsets([partition], deadline)[partition]
        end = self.end_offsets([partition], deadline)[partition]
        within = _NEWEST_WITHIN
        while end > first:
            start = max(first, end - within)
            found = None
            for messages in self.read({partition: Span(start, end)}, deadline):
                found = next((m for m in reversed(messages) if m.value() is not None), found)
            if found is not None or start == first:
                return found
            within *= 8
        return None

    def follow(
        self, partitions: Iterable[Partition], is_over: Callable[[], bool]
    ) -> Generator[list[Message]]:
        """Yield all committed records and go on as more come, until ``is_over()``.

        An empty batch is yielded when the ends are reached for the first time, and from then on
        after each wait of half a second without a record. Outages are waited out.

        Raises
        ------
        FatalError
            If the broker refuses for good.
        """
        starts = dict.fromkeys(partitions, OFFSET_BEGINNING)
        behind = set(starts)
        with self._consumer(starts) as consumer:
            while not is_over():
                was_behind = bool(behind)
                batch = []
                for message in _poll(consumer, _POLL_S):
                    position = _position_after(message)
                    if message.error() is None:
                        batch.append(message)
                    elif position is not None:
                        behind.discard(_partition_of(message))
                if batch:
                    yield batch
                if not behind and (was_behind or not batch):
                    yield []

    def _read(
        self, starts: Offsets, ends: Mapping[Partition, int | None], deadline: Deadline | None
    ) -> Iterator[list[Message]]:
        """Yield what lies between; an end of None is where the partition has its end then."""
        if not starts:
            return
        left = dict(ends)
        limit = deadline or Deadline(self._silence_s)
        with self._consumer(starts) as consumer:
            while left:
                if limit.expired:
                    names = ", ".join(f"{topic}/{number}" for topic, number in sorted(left))
                    raise BrokerUnavailable(f"{names}: the end was not reached in time")
                batch, is_moving = [], False
                for message in _poll(consumer, min(_POLL_S, limit.remaining_s)):
                    partition, position = _partition_of(message), _position_after(message)
                    if partition not in left or position is None:
                        continue
                    is_moving = True
                    end, is_record = left[partition], message.error() is None
                    if is_record and (end is None or position <= end):
                        batch.append(message)
                    if not is_record if end is None else position >= end:
                        del left[partition]
                        # What comes behind the end is fetched no longer.
                        consumer.incremental_unassign([TopicPartition(*partition)])
                if batch:
                    yield batch
                if is_moving and deadline is None:
                    limit = Deadline(self._silence_s)

    @contextmanager
    def _consumer(self, starts: Offsets) -> Iterator[Consumer]:
        consumer = Consumer(
            {
                **self._kafka.as_librdkafka(),
                "group.id": "penstock-log-view",  # the client demands one; it is never joined
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest" if self._gap == "skip" else "error",
                "fetch.message.max.bytes": MESSAGE_MAX_BYTES,
                "queued.max.messages.kbytes": 16_384,
                "fetch.queue.backoff.ms": 10,
                # The end of a partition is known from a fetch that comes back empty.
                "fetch.wait.max.ms": 50,
            }
        )
        try:
            with client_errors("assigning partitions"):
                consumer.assign([TopicPartition(t, p, offset) for (t, p), offset in starts.items()])
            yield consumer
        finally:
            consumer.close()

    def _offsets(
        self,
        partitions: Iterable[Partition],
        spec: Any,
        deadline: Deadline | None,
        *,
        committed: bool = False,
    ) -> dict[Partition, int]:
        wanted = {TopicPartition(topic, number): spec for topic, number in partitions}
        if not wanted:
            return {}
        longest_s = self._kafka.request_timeout_s
        timeout_s = max(0.1, min(deadline.remaining_s, longest_s)) if deadline else longest_s
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        names = ", ".join(sorted({place.topic for place in wanted}))
        try:
            answers = self._admin_client().list_offsets(
                wanted, isolation_level=level, request_timeout=timeout_s
            )
            # The client's own time-out ends the future; this one is for a client that does not.
            return {
                (place.topic, place.partition): int(answer.result(timeout_s + 1).offset)
                for place, answer in answers.items()
            }
        except KafkaException as exc:
            # A broker that has restarted refuses the leader epoch that this client remembers, for
            # as long as it remembers it: the next attempt asks with a new client.
            self._admin = None
            error = error_of(exc)
            if error.code() in (KafkaError._NOENT, KafkaError.UNKNOWN_TOPIC_OR_PART):  # noqa: SLF001
                # So the client answers for partitions that have been added or have no leader, too.
                raise BrokerUnavailable(f"{names}: no such topic or partition is known") from exc
            raise penstock_error(error, f"reading the offsets of {names}") from exc
        except TimeoutError as exc:
            raise BrokerUnavailable(f"no offsets of {names} in {timeout_s:.0f} s") from exc

    def _admin_client(self) -> Any:
        if self._admin is None:
            self._admin = admin_client(self._kafka)
        return self._admin


def _poll(consumer: Consumer, timeout_s: float) -> tuple[Message, ...]:
    """Return the messages that are there, after a wait for the first one."""
    with client_errors("reading"):
        first = consumer.poll(timeout_s)
        return () if first is None else (first, *consumer.consume(_BATCH_ROWS, 0))


def _partition_of(message: Message) -> Partition:
    return message.topic() or "", message.partition() or 0


def _position_after(message: Message) -> int | None:
    """Return the offset up to which everything is decided and read; None of a passing error.

    Raises
    ------
    PenstockError
        For an error that does not pass.
    """
    error, offset = message.error(), message.offset() or 0
    if error is None:
        return offset + 1
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's public name
        return offset
    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):  # noqa: SLF001
        raise RecordsGone(f"{message.topic()}: retention has deleted records that were to be read")
    if category_of(error) is ErrorCategory.RETRY:
        return None
    raise penstock_error(error, f"reading {message.topic()}")
