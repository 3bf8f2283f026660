"""Counting what a read_committed reader gets: every record is read, none is inferred."""

from __future__ import annotations

import time
from typing import Final

from confluent_kafka import Consumer, TopicPartition

COUNT_S: Final = 180.0

Offsets = dict[int, int]


def count_committed(bootstrap: str, topic: str, first: Offsets, upto: Offsets) -> tuple[int, int]:
    """Return the records below ``first`` and below ``upto``, as read_committed reads them.

    Raises
    ------
    RuntimeError
        If the topic cannot be read in time.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-count",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 10,
        }
    )
    pending = {p: end for p, end in upto.items() if end > 0}
    consumer.assign([TopicPartition(topic, p, 0) for p in pending])
    before = total = 0
    limit = time.monotonic() + COUNT_S
    while pending and time.monotonic() < limit:
        for message in consumer.consume(10_000, 0.2):
            partition, offset = message.partition(), message.offset()
            if message.error() is None and offset < upto[partition]:
                total += 1
                before += offset < first.get(partition, 0)
        # position() steps over control records, so it reaches the end where the last is a marker
        for tp in consumer.position([TopicPartition(topic, p) for p in pending]):
            if tp.offset >= upto[tp.partition]:
                pending.pop(tp.partition)
    consumer.close()
    if pending:
        raise RuntimeError(f"{topic}: could not read to {upto} within {COUNT_S:.0f} s")
    return before, total
