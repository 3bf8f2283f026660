"""Counts the terminal records of a pipeline as any foreign consumer sees them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from penstock_schemas.errors import FatalError
from penstock_schemas.topics import PipelineTopics

POLL_S = 0.2
BATCH_ROWS = 5_000
METADATA_TIMEOUT_S = 10.0


class CountMissed(FatalError):
    """The expected number of terminal records did not arrive before the deadline."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """Terminal records by kind.

    Parameters
    ----------
    predictions
        Records in the predictions topic.
    dead_letters
        Records in the dead-letter topics of events and features.
    """

    predictions: int
    dead_letters: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.predictions + self.dead_letters


def wait_for_terminal(
    bootstrap_servers: str,
    topics: PipelineTopics,
    expected: int,
    timeout_s: float,
    progress: Callable[[int], None],
) -> Terminal:
    """Read from the beginning, committed records only, until ``expected`` have been seen.

    Raises
    ------
    CountMissed
        Fewer came within ``timeout_s``.
    """
    dead = [topics.dead_letter(topics.events), topics.dead_letter(topics.features)]
    counts = dict.fromkeys([topics.predictions, *dead], 0)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "penstock-demo",  # required by the client; nothing is committed
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
        }
    )
    deadline = time.monotonic() + timeout_s
    try:
        consumer.assign([p for topic in counts for p in _partitions(consumer, topic)])
        while sum(counts.values()) < expected:
            if time.monotonic() > deadline:
                raise CountMissed(
                    f"{sum(counts.values()):,} of {expected:,} events had an outcome after "
                    f"{timeout_s:.0f} s"
                )
            for message in consumer.consume(BATCH_ROWS, POLL_S):
                _require_record(message.error())
                counts[str(message.topic())] += 1
            progress(sum(counts.values()))
    finally:
        consumer.close()
    return Terminal(counts[topics.predictions], sum(counts[topic] for topic in dead))


def _partitions(consumer: Consumer, topic: str) -> list[TopicPartition]:
    found = consumer.list_topics(topic, timeout=METADATA_TIMEOUT_S).topics[topic]
    return [TopicPartition(topic, number, 0) for number in found.partitions]


def _require_record(error: KafkaError | None) -> None:
    if error is not None and not error.retriable():
        raise KafkaException(error)
