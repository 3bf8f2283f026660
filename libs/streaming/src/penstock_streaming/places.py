"""Where a group member reads: what is committed, what has been read, and what is gone.

The client never resets a position by itself. A partition begins where its group has committed, or
at its start where nothing is committed; anything else is a gap in the data, and fatal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from penstock_schemas.errors import BrokerUnavailable, DataGap

from penstock_streaming.clients import ConsumerClient, TopicsClient
from penstock_streaming.deadline import Deadline
from penstock_streaming.errors import error_of
from penstock_streaming.lag import LagMeter

logger = logging.getLogger(__name__)

_ASK_TIMEOUT_S: Final = 5.0


class Places:
    """The positions of one consumer on one topic.

    Parameters
    ----------
    client
        The consumer.
    topic
        The input topic.
    lag
        Learns what is committed.
    """

    def __init__(self, client: ConsumerClient, topic: str, lag: LagMeter) -> None:
        self._client = client
        self._topic = topic
        self._lag = lag

    def begin(self, partitions: Iterable[int], deadline: Deadline) -> None:
        """Have new partitions that are held read from their start where nothing is committed.

        The client goes to committed offsets by itself. It is not asked to seek there: the late
        answer to a question for the start of the log would take it back.

        Raises
        ------
        BrokerUnavailable
            If the offsets cannot be had now; call again.
        """
        try:
            committed = self._committed(partitions, deadline)
            fresh = [
                TopicPartition(self._topic, p, OFFSET_BEGINNING)
                for p, end in committed.items()
                if end < 0
            ]
            if fresh:
                self._client.incremental_unassign(fresh)
                self._client.incremental_assign(fresh)
                self._client.pause(fresh)
        except KafkaException as exc:
            raise self._unknown(exc) from exc
        self._lag.on_committed({p: end for p, end in committed.items() if end >= 0})

    def rewind(self, partitions: Iterable[int], deadline: Deadline) -> None:
        """Go back to the committed offsets, or to the start where nothing is committed.

        Raises
        ------
        BrokerUnavailable
            If the offsets cannot be had now; call again.
        """
        try:
            for partition, end in self._committed(partitions, deadline).items():
                place = end if end >= 0 else OFFSET_BEGINNING
                self._client.seek(TopicPartition(self._topic, partition, place))
        except KafkaException as exc:
            raise self._unknown(exc) from exc

    def reached(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return the offset after what was returned last, control records stepped over."""
        wanted = [TopicPartition(self._topic, p) for p in partitions]
        try:
            found = self._client.position(wanted)
        except KafkaException:
            return {}
        return {tp.partition: tp.offset for tp in found if tp.offset >= 0 and tp.error is None}

    def gap(self, partition: int, wanted: int) -> DataGap:
        """Return what is missing where the log does not have the offset that is wanted.

        Parameters
        ----------
        wanted
            The offset the client has asked for.
        """
        place = TopicPartition(self._topic, partition)
        try:
            [found] = self._client.committed([place], _ASK_TIMEOUT_S)
            first = min(wanted, found.offset) if found.offset >= 0 else wanted
            low, high = self._client.get_watermark_offsets(place, _ASK_TIMEOUT_S)
        except KafkaException as exc:
            logger.warning("%s: cannot ask for the log's ends: %s", self._topic, error_of(exc))
            return DataGap(self._topic, {partition: (wanted, None)}, "the log does not have them")
        if first < low:
            return DataGap(self._topic, {partition: (first, low)}, f"the log starts at {low}")
        reason = f"the log ends at {high}: it was cut off, or the topic made again"
        return DataGap(self._topic, {partition: (first, None)}, reason)

    def _committed(self, partitions: Iterable[int], deadline: Deadline) -> dict[int, int]:
        """Return the committed offsets, below 0 where there is none."""
        wanted = [TopicPartition(self._topic, p) for p in partitions]
        found = self._client.committed(wanted, max(0.1, deadline.remaining_s))
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        return {place.partition: place.offset for place in found}

    def _unknown(self, exc: KafkaException) -> BrokerUnavailable:
        text = f"the group's offsets of {self._topic}: {error_of(exc).name()}"
        return BrokerUnavailable(text, retry_after_s=0.2)


class TopicIdentity:
    """Notices that a topic was deleted and made again, where no offset would tell.

    Parameters
    ----------
    topic
        The input topic.
    client
        Asked without waiting for it.
    """

    def __init__(self, topic: str, client: TopicsClient) -> None:
        self._topic = topic
        self._client: TopicsClient | None = client
        self._known: str | None = None
        self._answer: Future[Any] | None = None

    def check(self, reached: dict[int, int]) -> None:
        """Look at the last answer and ask again.

        Parameters
        ----------
        reached
            Offsets up to which the partitions of this member have been read.

        Raises
        ------
        DataGap
            If it is another topic of the same name.
        """
        answer = self._answer
        if answer is not None and not answer.done():
            return
        self._answer = self._ask()
        if answer is None:
            return
        try:
            found = str(answer.result(0).topic_id)
        except KafkaException as exc:
            logger.debug("%s: its id is not known: %s", self._topic, error_of(exc).name())
            return
        if self._known is not None and found != self._known:
            reason = f"the topic was deleted and made again (id {self._known}, now {found})"
            raise DataGap(self._topic, {p: (end, None) for p, end in reached.items()}, reason)
        self._known = found

    def close(self) -> None:
        """Drop the client."""
        self._client = self._answer = None

    def _ask(self) -> Future[Any] | None:
        if self._client is None:
            return None
        wanted = TopicCollection([self._topic])
        return self._client.describe_topics(wanted, request_timeout=_ASK_TIMEOUT_S)[self._topic]
