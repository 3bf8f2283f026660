"""Several topics read as far as they are committed, without a group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
from confluent_kafka import Message
from penstock_streaming.log_view import LogView, Offsets, Partition, Span
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline


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
    """Reads topics piece by piece and remembers how far it has come.

    Parameters
    ----------
    topics
        Their names.
    """

    def __init__(self, kafka: KafkaSettings, topics: Sequence[str]) -> None:
        self._topics = topics
        self._next: dict[Partition, int] = {}
        # Records that are gone are never skipped in silence.
        self._view = LogView(kafka, gap="error")

    def close(self) -> None:
        """Do nothing: no client stays open between two reads."""

    def watermarks(self) -> tuple[dict[Partition, int], dict[Partition, int]]:
        """Return each partition's first offset, and the one after its last committed record.

        Raises
        ------
        BrokerUnavailable
            If no broker answers in time.
        ConfigError
            If a topic is not there.
        """
        partitions = self._view.partitions(*self._topics)
        first = self._view.begin_offsets(partitions)
        return first, self._view.end_offsets(partitions, committed=True)

    @property
    def positions(self) -> dict[Partition, int]:
        """Offset of the next record of each partition."""
        return dict(self._next)

    def start(self, starts: Offsets) -> None:
        """Read from these offsets on."""
        self._next = dict(starts)

    def read(self, ends: Offsets, timeout_s: float) -> Iterator[Chunk]:
        """Yield what lies before these offsets and has not been read, partition by partition.

        Partitions that were added since the start are read from their beginning.

        Raises
        ------
        BrokerUnavailable
            If the ends are not reached in time.
        ConfigError
            If records that were asked for are gone.
        """
        spans = {p: Span(self._next.get(p, 0), end) for p, end in ends.items()}
        for messages in self._view.read(spans, Deadline(timeout_s)):
            for (topic, partition), records in groupby(sorted(messages, key=_place), _place):
                group = list(records)
                offsets = np.fromiter((m.offset() or 0 for m in group), np.int64, len(group))
                self._next[topic, partition] = int(offsets[-1]) + 1
                yield Chunk(topic, partition, offsets, [m.value() for m in group])
        # Beyond the last record there may be control records, which no client sees.
        self._next.update({p: max(span.first, span.end) for p, span in spans.items()})


def _place(message: Message) -> Partition:
    return message.topic() or "", message.partition() or 0
