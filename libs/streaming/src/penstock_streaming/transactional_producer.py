"""The output side of a loop with delivery ``exactly_once``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from confluent_kafka import KafkaError, TopicPartition
from penstock_schemas.errors import BrokerUnavailable, FencedError

from penstock_streaming.bounded_call import within
from penstock_streaming.clients import ProducerClient
from penstock_streaming.deadline import Deadline
from penstock_streaming.errors import (
    CLIENT_EXCEPTIONS,
    AbortRequired,
    OutcomeUnknown,
    TransactionClass,
    Verdict,
    error_of,
    transaction_class,
    translated,
    verdict,
)
from penstock_streaming.producer import POLL_S, OutputProducer

LEAVE_S: Final = 0.1
"""For an abort that is only to end the client's own part of a transaction."""


class TransactionalProducer(OutputProducer):
    """Outputs, dead letters and offsets become visible together or not at all."""

    _member_id: str = ""
    _lost: KafkaError | None = None
    """A connection that this producer has lost since it took its id."""

    def open(self) -> None:
        """Take the transactional id, with a new producer unless one is already at it.

        What an earlier producer left open is aborted, or completed if it was committing. One
        attempt is short, since nothing polls meanwhile; the next resumes it.

        Raises
        ------
        BrokerUnavailable
            If no coordinator answers yet; call again.
        FencedError
            If the id is taken.
        ConfigError
            If the broker refuses us.
        OutcomeUnknown
            If the client has become unusable.
        """
        if self._open_client is None:
            self._open_client = self._connect({"error_cb": self._on_error})
        try:
            within(self._client.init_transactions, self._loop.init_timeout_s)
        except OutcomeUnknown as exc:
            self.close()
            raise BrokerUnavailable(f"taking the transactional id: {exc}") from exc
        except CLIENT_EXCEPTIONS as exc:
            error = error_of(exc)
            if transaction_class(error) is TransactionClass.RETRIABLE:
                raise BrokerUnavailable(f"taking the transactional id: {error.name()}") from exc
            self.close()
            if verdict(error) in (Verdict.CONFIG, Verdict.FENCED):
                raise translated(error, "taking the transactional id") from exc
            raise BrokerUnavailable(f"taking the transactional id: {error.str()}") from exc
        self._serve(self._client.poll, 0)  # what it has met on its way here is over
        self._lost = None

    def _on_error(self, error: KafkaError) -> None:
        """Note what the client meets in the background; called while it is served."""
        if error.name() in ("_TRANSPORT", "_ALL_BROKERS_DOWN"):
            self._lost = error

    def begin(self) -> None:
        """Open a transaction as the group member that we are now.

        Raises
        ------
        AbortRequired
            If we are no member.
        OutcomeUnknown
            If this producer has lost a connection; make a new one.
        """
        self._check_connections()
        self._member_id = self._group.member_id()
        if not self._member_id:
            raise AbortRequired("membership of the group is lost", Verdict.MEMBERSHIP)
        self._call(lambda _: self._client.begin_transaction(), Deadline(0.0))

    def commit(self, ends: list[TopicPartition]) -> None:
        """Add the offsets and commit; not with a producer that has lost a connection.

        Raises
        ------
        AbortRequired
            If the broker has refused; nothing is visible.
        OutcomeUnknown
            If nobody knows; make a new producer.
        FencedError
            If another producer owns our id.
        """
        deadline = Deadline(self._loop.commit_timeout_s)
        metadata = self._group.membership(self._member_id)
        client = self._client
        if self._fail_points.armed == "after_flush":
            self.settle()
            self._fail_points.reach("after_flush")
        try:
            self._check_connections()
        except OutcomeUnknown:
            self._leave(client)
            raise
        self._call(lambda t: client.send_offsets_to_transaction(ends, metadata, t), deadline)
        self._fail_points.reach("after_offsets")
        self._fail_points.during("during_commit")
        self._call(client.commit_transaction, deadline)

    def abort(self) -> None:
        """Abort; a failure asks for a new producer."""
        try:
            self._call(self._client.abort_transaction, Deadline(self._loop.commit_timeout_s))
        except AbortRequired as exc:
            raise OutcomeUnknown(f"abort failed: {exc}") from exc

    def _check_connections(self) -> None:
        """Refuse what may add offsets if a connection was lost.

        This producer may remember a coordinator of the group that is gone, and would wait for that
        one until its time is up (librdkafka issue 5511).
        """
        self._serve(self._client.poll, 0)
        if self._lost is not None:
            raise OutcomeUnknown(f"a connection was lost: {self._lost.str()}", Verdict.RETRY)

    def _leave(self, client: ProducerClient) -> None:
        """Have the client leave its transaction, however the broker takes it.

        One that is dropped in the millisecond in which it is about to register its first partition
        ends the process: librdkafka asserts that it has counted that request, which it has not yet.
        """
        with suppress(*CLIENT_EXCEPTIONS, OutcomeUnknown):
            within(client.abort_transaction, LEAVE_S)

    def _call(self, call: Callable[[float], object], deadline: Deadline) -> None:
        """Make a transaction call, repeated while librdkafka says so and time is left."""
        while True:
            try:
                within(call, max(0.1, deadline.remaining_s))
                return
            except CLIENT_EXCEPTIONS as exc:
                error = error_of(exc)
                text = f"{error.name()}: {error.str()}"
                match transaction_class(error):
                    case TransactionClass.RETRIABLE if not deadline.expired:
                        self._serve(self._client.poll, min(POLL_S, deadline.remaining_s))
                    case TransactionClass.ABORTABLE:
                        raise AbortRequired(text, verdict(error)) from exc
                    case TransactionClass.FENCED:
                        raise FencedError(text) from exc
                    case _:
                        raise OutcomeUnknown(text, verdict(error)) from exc
