"""Reading parts of topics, committed records only, with a deadline for silence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import groupby
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from penstock_schemas.errors import BrokerUnavailable, Refused
from penstock_streaming.errors import Verdict, translated, verdict
from penstock_streaming.settings import MESSAGE_MAX_BYTES, KafkaSettings
from penstock_streaming.timing import Deadline

from penstock_replay.places import Place
from penstock_replay.selection import Span

_BATCH_ROWS: Final = 2000
_POLL_S: Final = 0.1
_SEEK_FROM: Final = 2000
"""Offsets between two wanted records from which seeking is cheaper than reading on."""
_SILENCE_S: Final = 60.0
"""Longest time without a record before the end; other producers' open transactions end in that."""


class LogReader:
    """Reads topics; each call has a client of its own."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._config: dict[str, Any] = {
            **kafka.as_librdkafka(),
            "group.id": "penstock-replay-reader",  # asked for, never joined
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            # A record that retention has passed is an error here, never a silent skip.
            "auto.offset.reset": "error",
            "fetch.message.max.bytes": MESSAGE_MAX_BYTES,
            "fetch.queue.backoff.ms": 10,
            "fetch.wait.max.ms": 50,  # the end is told by an empty fetch
            "queued.max.messages.kbytes": 16_384,
        }

    def read(self, topic: str, spans: Mapping[int, Span]) -> Iterator[list[Message]]:
        """Yield the records of spans in batches, in order within a partition.

        Raises
        ------
        Refused
            If retention passes a record before it is read.
        BrokerUnavailable
            If nothing comes for a minute.
        """
        left = {p: span for p, span in spans.items() if span.offsets}
        silence = Deadline(_SILENCE_S)
        with closing(Consumer(self._config)) as consumer:
            consumer.assign([TopicPartition(topic, p, s.first) for p, s in left.items()])
            while left:
                batch: list[Message] = []
                for message in consumer.consume(_BATCH_ROWS, _POLL_S):
                    is_over = self._take(message, left, batch)
                    if is_over:
                        partition = message.partition() or 0
                        del left[partition]
                        consumer.incremental_unassign([TopicPartition(topic, partition)])
                if batch:
                    yield batch  # the pacing of whoever takes it is no silence
                    silence = Deadline(_SILENCE_S)
                elif silence.expired:
                    raise BrokerUnavailable(f"{topic}: no record for {_SILENCE_S:.0f} s")

    def _take(self, message: Message, left: Mapping[int, Span], batch: list[Message]) -> bool:
        """Keep a message that belongs to its span; tell whether that span is read."""
        error = message.error()
        span = left.get(message.partition() or 0)
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                # The end of what is committed now: further than the span's end was.
                return span is not None and (message.offset() or 0) >= span.end
            _raise_unless_passing(error, message.topic() or "")
            return False
        offset = message.offset() or 0
        if span is None:
            return False
        if offset in span:
            batch.append(message)
        return offset >= span.end - 1

    def records(self, places: Iterable[Place]) -> dict[Place, Message]:
        """Return single records; one that is not there any more is missing in the answer."""
        found: dict[Place, Message] = {}
        for (topic, partition), group in groupby(
            sorted(places), key=lambda p: (p.topic, p.partition)
        ):
            wanted = [place.offset for place in group]
            for run in _runs(wanted):
                span = Span(run[0], run[-1] + 1)
                try:
                    for batch in self.read(topic, {partition: span}):
                        found.update(
                            (Place(topic, partition, m.offset() or 0), m)
                            for m in batch
                            if (m.offset() or 0) in run
                        )
                except Refused:
                    continue
        return found


def _runs(offsets: list[int]) -> Iterator[list[int]]:
    """Split ascending offsets where it is worth to seek."""
    run = offsets[:1]
    for offset in offsets[1:]:
        if offset - run[-1] > _SEEK_FROM:
            yield run
            run = []
        run.append(offset)
    if run:
        yield run


def _raise_unless_passing(error: KafkaError, topic: str) -> None:
    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):  # noqa: SLF001
        raise Refused(
            f"{topic}: retention has passed the first records; '--from start' takes what is left"
        )
    if verdict(error) is not Verdict.RETRY:
        raise translated(error, f"reading {topic}")
