"""The input side of the loop: one member of a consumer group on one topic.

Rebalance callbacks run inside `fetch`. They only note what happened, and hold newly assigned
partitions back; the loop does the work afterwards. The client never resets a position by itself. A
partition begins where its group has committed, or at its start where nothing is committed;
anything else is a gap in the data, and fatal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from math import inf
from time import perf_counter
from typing import Any, Final, Literal

from confluent_kafka import (
    OFFSET_BEGINNING,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from penstock_schemas.errors import BrokerUnavailable, DataGap, PenstockError

from penstock_streaming.clients import Clients, ConsumerClient, TopicsClient
from penstock_streaming.errors import (
    CLIENT_EXCEPTIONS,
    AbortRequired,
    OutcomeUnknown,
    Verdict,
    error_of,
    translated,
    verdict,
)
from penstock_streaming.lag import LagMeter
from penstock_streaming.timing import Deadline, Patience, within

logger = logging.getLogger(__name__)

_ASK_TIMEOUT_S: Final = 5.0
LEAVE_S: Final = 3.0
"""Time to leave the group; `bounded_call.GRACE_S` comes on top."""


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


def without_notices(messages: list[Message], topic: str, places: Places) -> list[Message]:
    """Return the records alone.

    Raises
    ------
    DataGap
        If records are gone before they were read.
    FatalError
        If no later poll can cure what a notice tells.
    """
    for message in messages:
        error = message.error()
        if error is None:
            continue
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - its public name
            offset = message.offset()
            if offset is None or offset < 0:
                continue  # nothing is committed: `places.begin` sees to it
            raise places.gap(message.partition() or 0, offset)
        if verdict(error) not in (Verdict.RETRY, Verdict.MEMBERSHIP) or error.fatal():
            raise translated(error, f"reading {topic}")
        logger.warning("reading %s: %s", topic, error.name())
    return [m for m in messages if m.error() is None]


@dataclass(frozen=True, slots=True)
class Rebalance:
    """What a callback was told, or what was done for want of one."""

    kind: Literal["assigned", "revoked", "lost", "rejoined"]
    partitions: tuple[int, ...]


class InputConsumer:
    """Polls one topic as a member of a group; never commits by itself.

    Parameters
    ----------
    clients
        Makes the client.
    config
        From `KafkaSettings.consumer_config`.
    topic
        The input topic.
    rejoin_timeout_s
        Longest time without an answer of the group while nothing is assigned; then a new client
        takes the place of this one.

    Attributes
    ----------
    has_joined
        Whether the group has answered with an assignment, be it empty.
    gates
        The partitions assigned to it.
    places
        Where it reads them.
    consume_s
        Time that taking what had arrived took in the last fetch, seconds, without waiting for it.
    """

    def __init__(
        self,
        clients: Clients,
        config: dict[str, Any],
        topic: str,
        rejoin_timeout_s: float = inf,
    ) -> None:
        self.topic = topic
        self.has_joined = False
        self.consume_s = 0.0
        self.lag = LagMeter(topic)
        self._events: list[Rebalance] = []
        self._startup_error: PenstockError | None = None
        self._patience = Patience(rejoin_timeout_s)
        self._connect = partial(
            clients.consumer,
            {**config, "error_cb": self._on_error, "stats_cb": self.lag.on_statistics},
        )
        self._client = self._connect()
        self._stand()

    def _stand(self) -> None:
        self.gates = Gates(self._client, self.topic)
        self.places = Places(self._client, self.topic, self.lag)

    def subscribe(self) -> None:
        """Join the group; partitions come with a later `fetch`."""
        self._patience.begin()
        self._client.subscribe(
            [self.topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def fetch(self, max_rows: int, timeout_s: float) -> list[Message]:
        """Return what has arrived, waiting only for the first record.

        Raises
        ------
        FatalError
            If the client can go no further.
        """
        waited_s = self._patience.spend()
        if waited_s is not None:
            self._join_anew(waited_s)
        try:
            first = self._client.poll(timeout_s)
            if first is None:
                messages = []
            elif max_rows == 1:
                messages = [first]
            else:
                start = perf_counter()
                messages = [first, *self._client.consume(max_rows - 1, 0)]
                self.consume_s = perf_counter() - start
        except CLIENT_EXCEPTIONS as exc:
            raise translated(error_of(exc), f"reading {self.topic}") from exc
        if self._startup_error is not None and not self.has_joined:
            raise self._startup_error
        if any(map(Message.error, messages)):
            messages = without_notices(messages, self.topic, self.places)
        return messages

    def take_events(self) -> list[Rebalance]:
        """Return the rebalances since the last call, in order."""
        events, self._events = self._events, []
        return events

    def member_id(self) -> str:
        """Return our id in the group; empty when membership is lost."""
        return self._client.memberid() or ""

    def membership(self, member_id: str) -> object:
        """Return the group metadata of a member, for a transaction.

        A broker accepts a transaction's offsets from an unknown member of generation -1, so
        metadata of a membership that was lost in the meantime must never be sent.

        Parameters
        ----------
        member_id
            Our id when the transaction began.

        Raises
        ------
        AbortRequired
            If we are no longer that member.
        """
        metadata = self._client.consumer_group_metadata()
        if not member_id or self.member_id() != member_id:
            raise AbortRequired("membership of the group is lost", Verdict.MEMBERSHIP)
        return metadata

    def commit(self, ends: list[TopicPartition]) -> None:
        """Commit outside of a transaction.

        Raises
        ------
        AbortRequired
            If the group has moved on.
        BrokerUnavailable
            If no broker answers.
        """
        try:
            for done in self._client.commit(offsets=ends, asynchronous=False) or ():
                if done.error is not None:
                    raise KafkaException(done.error)
        except KafkaException as exc:
            raise translated(error_of(exc), f"committing {self.topic}") from exc

    def close(self) -> None:
        """Leave the group; a client that cannot is left behind, for its session ends anyway."""
        self._leave(self._client)
        self._events.clear()
        self._stand()

    def _join_anew(self, waited_s: float) -> None:
        """Be another member, with a client that remembers nothing (ADR 0029).

        A client that has lost its partitions was seen to wait for ever, unknown to the group.
        """
        logger.warning("%s: no partitions for %.0f s: joining anew", self.topic, waited_s)
        left, self._client = self._client, self._connect()
        self._stand()
        self.subscribe()
        self._events.append(Rebalance("rejoined", ()))
        self._leave(left)

    def _leave(self, client: ConsumerClient) -> None:
        """Have a client leave; librdkafka asks for a coordinator until one answers (issue 3740)."""
        try:
            within(lambda _: client.close(), LEAVE_S)
        except OutcomeUnknown as exc:
            logger.warning("%s: leaving the group: %s", self.topic, exc)

    def _on_assign(self, client: ConsumerClient, partitions: list[TopicPartition]) -> None:
        if client is not self._client:
            return  # a member that we are no longer
        self._patience.end()
        client.incremental_assign(partitions)
        if partitions:
            client.pause(partitions)
        self.has_joined = True
        ours = [tp.partition for tp in partitions]
        self.gates.take(ours)
        self.lag.on_moved(ours)
        self._events.append(Rebalance("assigned", tuple(ours)))

    def _on_revoke(self, client: ConsumerClient, partitions: list[TopicPartition]) -> None:
        if client is self._client:
            self._give_up("revoked", partitions)

    def _on_lost(self, client: ConsumerClient, partitions: list[TopicPartition]) -> None:
        if client is self._client:
            self._give_up("lost", partitions)

    def _give_up(self, kind: Literal["revoked", "lost"], partitions: list[TopicPartition]) -> None:
        gone = [tp.partition for tp in partitions]
        self.gates.give_up(gone)
        if not self.gates.owned:
            self._patience.begin()
        self.lag.on_moved(gone)
        self._events.append(Rebalance(kind, tuple(gone)))

    def _on_error(self, error: KafkaError) -> None:
        """Note what the client meets in the background: only credentials stop the start."""
        if verdict(error) is Verdict.CONFIG:
            self._startup_error = translated(error, f"connecting for {self.topic}")
        logger.debug("kafka client: %s: %s", error.name(), error.str())
