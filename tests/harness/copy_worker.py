"""A worker process for the loop's integration tests: numbers what it copies.

The n-th good record of a partition leaves as ``value#n``. The counts are state with a changelog, so
a restore that misses or doubles a transaction shows as a wrong number in a committed record.
A value that starts with ``bad`` is a dead letter, a tombstone is a skip, and one that starts with
``kill`` kills the process.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from penstock_schemas.errors import BrokerUnavailable, DecodeError, RecordError
from penstock_service.command import on_stop
from penstock_streaming.handler import Completed, HandledBatch, MessageBatch, OutputColumns
from penstock_streaming.metrics import LoopMetrics
from penstock_streaming.processor import Processor
from penstock_streaming.settings import KafkaSettings, LoopSettings
from penstock_streaming.timing import Deadline
from prometheus_client import CollectorRegistry

KAFKA_TIMEOUT_S = 10.0
CAN_STOP = "a signal to stop is heard"
"""What a worker logs once SIGTERM no longer kills it."""


class NumberingCopy:
    """Copies values with a running number per partition."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self._kafka = kafka
        self._out = f"{topic}.out"
        self._state = f"{topic}.state"
        self._counts: dict[int, int] = {}
        self._touched: set[int] = set()

    def submit(self, batch: MessageBatch) -> Completed:
        dead: list[tuple[int, RecordError]] = []
        good: list[int] = []
        values: list[bytes | None] = []
        for row, (value, p) in enumerate(zip(batch.values, batch.partitions.tolist(), strict=True)):
            if value is None:
                continue
            if value.startswith(b"kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            if value.startswith(b"bad"):
                dead.append((row, DecodeError("starts with bad")))
                continue
            good.append(row)
            values.append(value + b"#%d" % self._counts[p])
            self._counts[p] += 1
            self._touched.add(p)
        columns = OutputColumns(
            self._out, [batch.keys[r] for r in good], values, batch.partitions[good], rows=good
        )
        skipped = len(batch) - len(good) - len(dead)
        return Completed(HandledBatch([columns], dead, {"tombstone": skipped}, len(good)))

    def changelog(self) -> Sequence[OutputColumns]:
        partitions = sorted(self._touched)
        self._touched.clear()
        values = [b"%d" % self._counts[p] for p in partitions]
        return [OutputColumns(self._state, [b"count"] * len(values), values, partitions)]

    def committed(self) -> None:
        """Do nothing."""

    def revoked(self, partitions: Sequence[int]) -> None:
        for p in partitions:
            self._counts.pop(p, None)
        self._touched.difference_update(partitions)

    def rolled_back(self, partitions: Sequence[int], deadline_s: float) -> None:
        self.assigned(partitions, deadline_s)

    def assigned(self, partitions: Sequence[int], deadline_s: float) -> None:
        self._touched.difference_update(partitions)
        for p in partitions:
            self._counts[p] = self._restored(p, Deadline(deadline_s))

    def _restored(self, partition: int, deadline: Deadline) -> int:
        base = {**self._kafka.as_librdkafka(), "group.id": "none", "fetch.queue.backoff.ms": 10}
        place = TopicPartition(self._state, partition, OFFSET_BEGINNING)
        with Consumer({**base, "isolation.level": "read_uncommitted"}) as consumer:
            end = consumer.get_watermark_offsets(place, KAFKA_TIMEOUT_S)[1]
        count = 0
        with Consumer(base) as consumer:
            consumer.assign([place])
            while end > 0:
                message = consumer.poll(0.1)
                if message is not None and message.error() is None:
                    count = int(message.value() or b"0")
                if consumer.position([place])[0].offset >= end:
                    break
                if deadline.expired:
                    raise BrokerUnavailable(f"{self._state}: end not reached")
        return count


def main() -> None:
    """Run until SIGTERM; exit 1 on a fatal error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--incarnation", required=True)
    parser.add_argument("--commit-interval-s", type=float, default=0.1)
    parser.add_argument("--journal-dir", type=Path)
    parser.add_argument("--wrapper", default="")
    parser.add_argument("--group-protocol", choices=["classic", "consumer"], default="classic")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    kafka = KafkaSettings(bootstrap_servers=given.bootstrap)
    processor = Processor(
        kafka=kafka,
        group_id=given.topic,
        input_topic=given.topic,
        handler=NumberingCopy(kafka, given.topic),
        service="copy",
        transactional_id=f"{given.topic}-{given.incarnation}",
        loop=LoopSettings(
            max_batch_rows=100,
            max_transaction_rows=750,
            session_timeout_s=6.0,
            commit_interval_s=given.commit_interval_s,
            journal_dir=given.journal_dir,
            wrapper=given.wrapper,
            group_protocol=given.group_protocol,
        ),
        metrics=LoopMetrics(CollectorRegistry()),
    )
    on_stop(processor.stop)
    logging.info(CAN_STOP)
    processor.run()


if __name__ == "__main__":
    main()
