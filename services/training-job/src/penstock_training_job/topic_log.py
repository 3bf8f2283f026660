"""Several topics read as far as they are committed, without a group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from penstock_schemas.errors import BrokerUnavailable, ConfigError
from penstock_streaming.errors import Verdict, error_of, translated, verdict
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

Position = tuple[str, int]
"""Topic and partition."""
Offsets = Mapping[Position, int]

_BATCH_ROWS: Final = 10_000
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of one partition, in order.

    Parameters
    ----------
    offsets
        Shape (n,), int64.
    values
        n raw values; None is a tombstone.
    """

    topic: str
    partition: int
    offsets: npt.NDArray[np.int64]
    values: list[bytes | None]


class TopicLog:
    """A reader of topics. Not thread-safe; close it.

    Parameters
    ----------
    topics
        Their names.
    """

    def __init__(self, kafka: KafkaSettings, topics: Sequence[str]) -> None:
        self._topics = topics
        self._timeout_s = kafka.request_timeout_s
        self._next: dict[Position, int] = {}
        self._consumer = Consumer(
            {
                **kafka.as_librdkafka(),
                "group.id": "penstock-retrain-job",  # asked for, never joined
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",  # what is gone is never skipped in silence
                "fetch.queue.backoff.ms": 10,
                # An answer about the ends queues behind a fetch that waits for records.
                "fetch.wait.max.ms": 50,
            }
        )

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def watermarks(self) -> tuple[dict[Position, int], dict[Position, int]]:
        """Return each partition's first offset, and the one after its last committed record.

        Raises
        ------
        BrokerUnavailable
            If no broker answers in time.
        ConfigError
            If a topic is not there.
        """
        first: dict[Position, int] = {}
        end: dict[Position, int] = {}
        with _translated(f"reading the ends of {', '.join(self._topics)}"):
            for topic in self._topics:
                found = self._consumer.list_topics(topic, self._timeout_s).topics[topic]
                if not found.partitions:
                    raise ConfigError(f"topic {topic!r} does not exist: penstock topics apply")
                for number in found.partitions:
                    place = TopicPartition(topic, number)
                    marks = self._consumer.get_watermark_offsets(place, self._timeout_s)
                    if marks is None:
                        raise BrokerUnavailable(f"{topic}/{number}: no answer in time")
                    first[topic, number], end[topic, number] = marks
        return first, end

    @property
    def positions(self) -> dict[Position, int]:
        """Offset of the next record of each partition."""
        return dict(self._next)

    def start(self, starts: Offsets) -> None:
        """Read from these offsets on."""
        self._next = dict(starts)
        with _translated("assigning partitions"):
            self._consumer.assign([TopicPartition(t, p, o) for (t, p), o in starts.items()])

    def read(self, ends: Offsets, timeout_s: float) -> Iterator[Chunk]:
        """Yield what lies before these offsets and has not been read, partition by partition.

        Records after them may come along: `positions` tells how far the reader has come.

        Raises
        ------
        BrokerUnavailable
            If the ends are not reached in time.
        ConfigError
            If records that were asked for are gone.
        """
        deadline = Deadline(timeout_s)
        self._add(ends)
        while any(self._next[position] < end for position, end in ends.items()):
            if deadline.expired:
                raise BrokerUnavailable(f"the ends were not reached in {timeout_s:.0f} s")
            with _translated("reading"):
                messages = self._consumer.consume(_BATCH_ROWS, _POLL_S)
            yield from self._chunks(messages)

    def _add(self, ends: Offsets) -> None:
        """Read partitions that were added since the start, too, from their beginning."""
        added = [position for position in ends if position not in self._next]
        if added:
            with _translated("assigning partitions"):
                self._consumer.incremental_assign([TopicPartition(t, p, 0) for t, p in added])
            self._next.update(dict.fromkeys(added, 0))

    def _chunks(self, messages: list[Message]) -> Iterator[Chunk]:
        grouped: dict[Position, list[Message]] = {}
        for message in messages:
            position = (message.topic() or "", message.partition() or 0)
            error = message.error()
            if error is None:
                grouped.setdefault(position, []).append(message)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                # Beyond the last record there may be control records, which no client sees.
                self._passed(position, message.offset() or 0)
            elif verdict(error) is not Verdict.RETRY:
                raise translated(error, f"reading {position[0]}")
        for (topic, partition), group in grouped.items():
            offsets = np.fromiter((m.offset() or 0 for m in group), np.int64, len(group))
            self._passed((topic, partition), int(offsets[-1]) + 1)
            yield Chunk(topic, partition, offsets, [m.value() for m in group])

    def _passed(self, position: Position, offset: int) -> None:
        self._next[position] = max(self._next[position], offset)


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as exc:
        raise translated(error_of(exc), doing) from exc
