"""The input side of the loop: one member of a consumer group on one topic.

Rebalance callbacks run inside `poll_batch`. They only note what happened and leave newly assigned
partitions paused; the loop does the work afterwards. The client never resets a position by itself:
a partition is read from the committed offset, or from the start of the log where nothing is
committed; anything else is a gap in the data, and fatal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
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
    TopicPartition,
)
from penstock_schemas.errors import BrokerUnavailable, DataGap, PenstockError

from penstock_streaming.clients import Clients, ConsumerClient
from penstock_streaming.errors import (
    CLIENT_EXCEPTIONS,
    AbortRequired,
    ErrorCategory,
    OutcomeUnknown,
    category_of,
    error_of,
    penstock_error,
)
from penstock_streaming.lag import LagMeter
from penstock_streaming.timing import Deadline, RejoinTimer, within

logger = logging.getLogger(__name__)

LEAVE_S: Final = 3.0
"""Time to leave the group; `timing.GRACE_S` comes on top."""
_OFFSETS_TIMEOUT_S: Final = 5.0
_PASSING: Final = (ErrorCategory.RETRY, ErrorCategory.MEMBERSHIP)
"""Errors among the messages that a later poll cures."""


@dataclass(frozen=True, slots=True)
class Rebalance:
    """What a callback was told, or what was done because no callback came."""

    kind: Literal["assigned", "revoked", "lost", "rejoined"]
    partitions: tuple[int, ...]


class GroupConsumer:
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
    owned
        Partitions assigned to this member.
    paused
        Those of them that are paused until `resume_all`; a newly assigned one is.
    blocked
        Those of them that are paused until `unblock`.
    lag
        How far it is behind.
    consume_s
        Time that taking what had arrived took in the last poll, seconds, without waiting for it.
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
        self.owned: set[int] = set()
        self.paused: set[int] = set()
        self.blocked: set[int] = set()
        self.lag = LagMeter(topic)
        self._rebalances: list[Rebalance] = []
        self._startup_error: PenstockError | None = None
        self._rejoin = RejoinTimer(rejoin_timeout_s)
        self._connect = partial(
            clients.consumer,
            {**config, "error_cb": self._on_error, "stats_cb": self.lag.on_statistics},
        )
        self._client = self._connect()

    # Membership: joining, rebalances, leaving.

    def subscribe(self) -> None:
        """Join the group; partitions come with a later poll."""
        self._rejoin.begin()
        self._client.subscribe(
            [self.topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def take_rebalances(self) -> list[Rebalance]:
        """Return the rebalances since the last call, in order."""
        rebalances, self._rebalances = self._rebalances, []
        return rebalances

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
            raise AbortRequired("membership of the group is lost", ErrorCategory.MEMBERSHIP)
        return metadata

    def close(self) -> None:
        """Leave the group; a client that cannot is left behind, for its session ends anyway."""
        self._leave(self._client)
        self._rebalances.clear()
        self._forget_assignment()

    def _rejoin_group(self, waited_s: float) -> None:
        """Join the group as another member, with a new client (ADR 0029).

        A client that has lost its partitions was seen to wait for ever, unknown to the group.
        """
        logger.warning("%s: no partitions for %.0f s: joining anew", self.topic, waited_s)
        left, self._client = self._client, self._connect()
        self._forget_assignment()
        self.subscribe()
        self._rebalances.append(Rebalance("rejoined", ()))
        self._leave(left)

    def _leave(self, client: ConsumerClient) -> None:
        """Have a client leave; librdkafka asks for a coordinator until one answers (issue 3740)."""
        try:
            within(lambda _: client.close(), LEAVE_S)
        except OutcomeUnknown as exc:
            logger.warning("%s: leaving the group: %s", self.topic, exc)

    def _forget_assignment(self) -> None:
        for partitions in (self.owned, self.paused, self.blocked):
            partitions.clear()

    def _on_assign(self, client: ConsumerClient, partitions: list[TopicPartition]) -> None:
        if client is not self._client:
            return  # a member that we are no longer
        self._rejoin.end()
        client.incremental_assign(partitions)
        if partitions:
            client.pause(partitions)
        self.has_joined = True
        ours = [tp.partition for tp in partitions]
        self.owned.update(ours)
        self.paused.update(ours)
        self.lag.on_moved(ours)
        self._rebalances.append(Rebalance("assigned", tuple(ours)))

    def _on_revoke(self, client: ConsumerClient, partitions: list[TopicPartition]) -> None:
        self._on_gone("revoked", client, partitions)

    def _on_lost(self, client: ConsumerClient, partitions: list[TopicPartition]) -> None:
        self._on_gone("lost", client, partitions)

    def _on_gone(
        self,
        kind: Literal["revoked", "lost"],
        client: ConsumerClient,
        partitions: list[TopicPartition],
    ) -> None:
        if client is not self._client:
            return
        gone = [tp.partition for tp in partitions]
        for known in (self.owned, self.paused, self.blocked):
            known.difference_update(gone)
        if not self.owned:
            self._rejoin.begin()
        self.lag.on_moved(gone)
        self._rebalances.append(Rebalance(kind, tuple(gone)))

    def _on_error(self, error: KafkaError) -> None:
        """Note what the client meets in the background: only credentials stop the start."""
        if category_of(error) is ErrorCategory.CONFIG:
            self._startup_error = penstock_error(error, f"connecting for {self.topic}")
        logger.debug("kafka client: %s: %s", error.name(), error.str())

    # Records.

    def poll_batch(self, max_rows: int, timeout_s: float) -> list[Message]:
        """Return what has arrived, waiting only for the first record.

        Raises
        ------
        DataGap
            If records are gone before they were read.
        FatalError
            If the client can go no further.
        """
        waited_s = self._rejoin.overdue_s()
        if waited_s is not None:
            self._rejoin_group(waited_s)
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
            raise penstock_error(error_of(exc), f"reading {self.topic}") from exc
        if self._startup_error is not None and not self.has_joined:
            raise self._startup_error
        if any(map(Message.error, messages)):
            messages = self._without_errors(messages)
        return messages

    def _without_errors(self, messages: list[Message]) -> list[Message]:
        """Return the records alone; an error among them is raised unless a later poll cures it."""
        for message in messages:
            error = message.error()
            if error is None:
                continue
            if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - its public name
                offset = message.offset()
                if offset is None or offset < 0:
                    continue  # nothing is committed: `start_uncommitted` assigns the start
                raise self.data_gap(message.partition() or 0, offset)
            if category_of(error) not in _PASSING or error.fatal():
                raise penstock_error(error, f"reading {self.topic}")
            logger.warning("reading %s: %s", self.topic, error.name())
        return [m for m in messages if m.error() is None]

    # Pausing. All may be paused for a while, single ones blocked until they are unblocked.

    def pause_all(self) -> None:
        """Pause all partitions: a poll then serves the group and returns nothing."""
        flowing = self.owned - self.paused
        self._try_call("pause", self._client.pause, flowing - self.blocked)
        self.paused |= flowing

    def resume_all(self) -> None:
        """Resume all partitions that are not blocked."""
        # Only those that are paused: each call makes librdkafka drop what it has fetched ahead.
        self._try_call("resume", self._client.resume, self.paused - self.blocked)
        self.paused.clear()

    def block(self, partition: int) -> None:
        """Pause one partition, whatever becomes of the others."""
        if partition in self.owned:
            self._try_call("pause", self._client.pause, {partition} - self.paused - self.blocked)
            self.blocked.add(partition)

    def unblock(self, partitions: Iterable[int]) -> None:
        """Resume blocked partitions, or leave them to `resume_all` if all are paused."""
        free = self.blocked.intersection(partitions)
        self._try_call("resume", self._client.resume, free - self.paused)
        self.blocked -= free

    def _try_call(
        self, what: str, call: Callable[[list[TopicPartition]], None], partitions: set[int]
    ) -> None:
        if not partitions:
            return
        try:
            call(self._places(sorted(partitions)))
        except KafkaException as exc:
            # The next poll tells what became of the partitions.
            logger.warning("cannot %s %s: %s", what, self.topic, error_of(exc).name())

    # Offsets and positions.

    def start_uncommitted(self, partitions: Iterable[int], deadline: Deadline) -> None:
        """Have new, paused partitions read from their start where nothing is committed.

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
                TopicPartition(self.topic, p, OFFSET_BEGINNING)
                for p, end in committed.items()
                if end < 0
            ]
            if fresh:
                self._client.incremental_unassign(fresh)
                self._client.incremental_assign(fresh)
                self._client.pause(fresh)
        except KafkaException as exc:
            raise self._offsets_unavailable(exc) from exc
        self.lag.on_committed({p: end for p, end in committed.items() if end >= 0})

    def rewind(self, partitions: Iterable[int], deadline: Deadline) -> None:
        """Seek to the committed offsets, or to the start where nothing is committed.

        Raises
        ------
        BrokerUnavailable
            If the offsets cannot be had now; call again.
        """
        try:
            for partition, end in self._committed(partitions, deadline).items():
                offset = end if end >= 0 else OFFSET_BEGINNING
                self._client.seek(TopicPartition(self.topic, partition, offset))
        except KafkaException as exc:
            raise self._offsets_unavailable(exc) from exc

    def positions(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return the offset after what was returned last, control records stepped over."""
        try:
            found = self._client.position(self._places(partitions))
        except KafkaException:
            return {}
        return {tp.partition: tp.offset for tp in found if tp.offset >= 0 and tp.error is None}

    def commit_offsets(self, ends: list[TopicPartition]) -> None:
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
            raise penstock_error(error_of(exc), f"committing {self.topic}") from exc

    def data_gap(self, partition: int, wanted: int) -> DataGap:
        """Return what is missing where the log does not have the offset that is wanted.

        Parameters
        ----------
        wanted
            The offset the client has asked for.
        """
        place = TopicPartition(self.topic, partition)
        try:
            [found] = self._client.committed([place], _OFFSETS_TIMEOUT_S)
            first = min(wanted, found.offset) if found.offset >= 0 else wanted
            low, high = self._client.get_watermark_offsets(place, _OFFSETS_TIMEOUT_S)
        except KafkaException as exc:
            logger.warning("%s: cannot ask for the log's ends: %s", self.topic, error_of(exc))
            return DataGap(self.topic, {partition: (wanted, None)}, "the log does not have them")
        if first < low:
            return DataGap(self.topic, {partition: (first, low)}, f"the log starts at {low}")
        reason = f"the log ends at {high}: it was cut off, or the topic made again"
        return DataGap(self.topic, {partition: (first, None)}, reason)

    def _committed(self, partitions: Iterable[int], deadline: Deadline) -> dict[int, int]:
        """Return the committed offsets, below 0 where there is none."""
        found = self._client.committed(self._places(partitions), max(0.1, deadline.remaining_s))
        for place in found:
            if place.error is not None:
                raise KafkaException(place.error)
        return {place.partition: place.offset for place in found}

    def _places(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self.topic, p) for p in partitions]

    def _offsets_unavailable(self, exc: KafkaException) -> BrokerUnavailable:
        text = f"the group's offsets of {self.topic}: {error_of(exc).name()}"
        return BrokerUnavailable(text, retry_after_s=0.2)
