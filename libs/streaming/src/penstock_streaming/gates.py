"""Which of a member's partitions flow: all may be held for a while, single ones barred for good."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaException, TopicPartition

from penstock_streaming.clients import ConsumerClient
from penstock_streaming.errors import error_of

logger = logging.getLogger(__name__)


class Gates:
    """The partitions of one consumer on one topic; a new one is held until `release`.

    Parameters
    ----------
    client
        The consumer.
    topic
        The input topic.

    Attributes
    ----------
    owned
        Partitions assigned to this member.
    held
        Those of them that are paused until `release`.
    barred
        Those of them that are paused until `unbar`.
    """

    def __init__(self, client: ConsumerClient, topic: str) -> None:
        self.owned: set[int] = set()
        self.held: set[int] = set()
        self.barred: set[int] = set()
        self._client = client
        self._topic = topic

    def take(self, partitions: list[int]) -> None:
        """Own partitions; they are paused already."""
        self.owned.update(partitions)
        self.held.update(partitions)

    def give_up(self, partitions: list[int]) -> None:
        """Own partitions no longer."""
        for known in (self.owned, self.held, self.barred):
            known.difference_update(partitions)

    def hold(self) -> None:
        """Hold all back: a fetch then serves the group and returns nothing."""
        flowing = self.owned - self.held
        self._quietly("pause", self._client.pause, flowing - self.barred)
        self.held |= flowing

    def release(self) -> None:
        """Let all flow again that are not barred."""
        # Only those that are held: each call makes librdkafka drop what it has fetched ahead.
        self._quietly("resume", self._client.resume, self.held - self.barred)
        self.held.clear()

    def bar(self, partition: int) -> None:
        """Hold one back, whatever becomes of the others."""
        if partition in self.owned:
            self._quietly("pause", self._client.pause, {partition} - self.held - self.barred)
            self.barred.add(partition)

    def unbar(self, partitions: Iterable[int]) -> None:
        """Let some flow again, with the others if those are held."""
        free = self.barred.intersection(partitions)
        self._quietly("resume", self._client.resume, free - self.held)
        self.barred -= free

    def _quietly(
        self, what: str, call: Callable[[list[TopicPartition]], None], partitions: set[int]
    ) -> None:
        if not partitions:
            return
        try:
            call([TopicPartition(self._topic, p) for p in sorted(partitions)])
        except KafkaException as exc:
            # The next poll tells what became of the partitions.
            logger.warning("cannot %s %s: %s", what, self._topic, error_of(exc).name())
