"""The input side of the loop: one member of a consumer group on one topic.

Rebalance callbacks run inside `fetch`. They only note what happened, and hold newly assigned
partitions back; the loop does the work afterwards.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from math import inf
from time import perf_counter
from typing import Any, Final, Literal

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from penstock_schemas.errors import PenstockError

from penstock_streaming.backoff import Patience
from penstock_streaming.bounded_call import within
from penstock_streaming.clients import Clients, ConsumerClient
from penstock_streaming.errors import (
    CLIENT_EXCEPTIONS,
    AbortRequired,
    OutcomeUnknown,
    Verdict,
    error_of,
    translated,
    verdict,
)
from penstock_streaming.gates import Gates
from penstock_streaming.lag import LagMeter
from penstock_streaming.notices import without_notices
from penstock_streaming.places import Places

logger = logging.getLogger(__name__)

LEAVE_S: Final = 3.0
"""Time to leave the group; `bounded_call.GRACE_S` comes on top."""


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
