"""The output side of the loop: one producer per delivery mode.

Which client error asks for an abort, and which for a new producer, is decided here and in `errors`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import ClassVar, Final

import numpy as np
from confluent_kafka import KafkaError, Message, TopicPartition
from penstock_schemas.errors import BrokerUnavailable, DeliveryFailed, FencedError

from penstock_streaming.clients import Clients, ProducerClient
from penstock_streaming.consumer import GroupConsumer
from penstock_streaming.dead_letters import DeadLetter
from penstock_streaming.errors import (
    CLIENT_EXCEPTIONS,
    AbortRequired,
    ErrorCategory,
    OutcomeUnknown,
    TransactionClass,
    category_of,
    error_of,
    penstock_error,
    transaction_class,
)
from penstock_streaming.handler import OutputColumns
from penstock_streaming.settings import KafkaSettings, LoopSettings
from penstock_streaming.timing import Deadline, within

LEAVE_TRANSACTION_S: Final = 0.1
"""For an abort that is only to end the client's own part of a transaction."""
_POLL_S: Final = 0.05


class Producer(ABC):
    """Outputs, dead letters and offsets of a loop; a subclass per delivery mode.

    Parameters
    ----------
    clients
        Makes a client, again for every re-creation.
    kafka
        The cluster.
    loop
        Sizes and time-outs.
    transactional_id
        Of this incarnation of the loop alone.
    consumer
        The group member whose offsets are committed.
    """

    is_transactional: ClassVar[bool]

    def __init__(
        self,
        clients: Clients,
        kafka: KafkaSettings,
        loop: LoopSettings,
        transactional_id: str,
        consumer: GroupConsumer,
    ) -> None:
        self._clients = clients
        self._config = kafka.producer_config(
            loop, transactional_id if self.is_transactional else None
        )
        self._loop = loop
        self._consumer = consumer
        self._open_client: ProducerClient | None = None

    @abstractmethod
    def open(self) -> None:
        """Make the client and have it ready to produce; call again after a RetryableError."""

    @abstractmethod
    def begin(self) -> None:
        """Begin what `commit` or `abort` ends, before anything is produced."""

    @abstractmethod
    def commit(self, ends: list[TopicPartition]) -> None:
        """Commit the input offsets with what was produced.

        Raises
        ------
        AbortRequired
            If the broker or the group has refused: abort and read again.
        OutcomeUnknown
            If nobody knows: make a new producer and read again.
        """

    @abstractmethod
    def abort(self) -> None:
        """Drop what was produced since `begin`."""

    def produce(self, columns: OutputColumns) -> None:
        """Queue records, in order.

        Raises
        ------
        AbortRequired
            If the queue does not empty in time, or the transaction has failed already.
        """
        partitions = columns.partitions
        if isinstance(partitions, np.ndarray):
            partitions = partitions.tolist()
        self._send(columns.topic, zip(columns.values, columns.keys, partitions, strict=True))
        self._serve(self._client.poll, 0)

    def _send(self, topic: str, rows: Iterable[tuple[bytes | None, bytes | None, int]]) -> None:
        produce = self._client.produce
        try:
            for value, key, partition in rows:
                try:
                    produce(topic, value, key, partition)
                except BufferError:
                    self._produce_later(partial(produce, topic, value, key, partition))
        except CLIENT_EXCEPTIONS as exc:
            raise self._produce_error(exc, topic) from exc

    def produce_dead_letter(self, topic: str, letter: DeadLetter) -> None:
        """Queue a dead letter."""
        send = partial(
            self._client.produce,
            topic,
            letter.value,
            letter.key,
            letter.partition,
            timestamp=letter.timestamp_ms,
            headers=letter.headers,
        )
        try:
            try:
                send()
            except BufferError:
                self._produce_later(send)
        except CLIENT_EXCEPTIONS as exc:
            raise self._produce_error(exc, topic) from exc

    def settle(self) -> None:
        """Wait until all that is queued lies in the log; raise AbortRequired if that is late."""
        left = self._serve(self._client.flush, self._loop.commit_timeout_s)
        if left:
            raise AbortRequired(f"{left} records are not delivered in time")

    def close(self) -> None:
        """Drop the client and all it still holds."""
        client, self._open_client = self._open_client, None
        if client is not None:
            with suppress(*CLIENT_EXCEPTIONS):
                client.purge()

    @property
    def _client(self) -> ProducerClient:
        if self._open_client is None:
            raise OutcomeUnknown("the producer is not open")
        return self._open_client

    def _connect(self, **callbacks: Callable[..., None]) -> ProducerClient:
        return self._clients.producer({**self._config, **callbacks})

    def _serve(self, call: Callable[[float], int], timeout_s: float) -> int:
        """Serve callbacks, in which the client raises its fatal error.

        Raises
        ------
        FencedError
            If another producer owns our id.
        OutcomeUnknown
            If the producer is unusable.
        """
        try:
            return call(timeout_s)
        except CLIENT_EXCEPTIONS as exc:
            error = error_of(exc)
            kind = FencedError if category_of(error) is ErrorCategory.FENCED else OutcomeUnknown
            raise kind(f"{error.name()}: {error.str()}") from exc

    def _produce_later(self, send: Callable[[], None]) -> None:
        """Wait until the queue has room."""
        deadline = Deadline(self._loop.commit_timeout_s)
        while not deadline.expired:
            self._serve(self._client.poll, _POLL_S)
            try:
                return send()
            except BufferError:
                continue
        raise AbortRequired("the producer's queue stays full")

    def _produce_error(self, exc: BaseException, topic: str) -> Exception:
        error = error_of(exc)
        if category_of(error) in (ErrorCategory.UNDELIVERABLE, ErrorCategory.CONFIG):
            return penstock_error(error, f"producing to {topic}")
        # Queueing itself does not fail: the transaction or the producer already has.
        return AbortRequired(f"producing to {topic}: {error.name()}", category_of(error))


class TransactionalProducer(Producer):
    """Delivery ``exactly_once``: records and offsets become visible together or not at all."""

    is_transactional = True
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
            self._open_client = self._connect(error_cb=self._on_error)
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
            if category_of(error) in (ErrorCategory.CONFIG, ErrorCategory.FENCED):
                raise penstock_error(error, "taking the transactional id") from exc
            raise BrokerUnavailable(f"taking the transactional id: {error.str()}") from exc
        self._serve(self._client.poll, 0)  # what it has met on its way here is over
        self._lost = None

    def begin(self) -> None:
        """Begin a transaction as the group member that we are now.

        Raises
        ------
        AbortRequired
            If we are no member.
        OutcomeUnknown
            If this producer has lost a connection; make a new one.
        """
        self._check_connections()
        self._member_id = self._consumer.member_id()
        if not self._member_id:
            raise AbortRequired("membership of the group is lost", ErrorCategory.MEMBERSHIP)
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
        metadata = self._consumer.membership(self._member_id)
        client = self._client
        try:
            self._check_connections()
        except OutcomeUnknown:
            self._leave_transaction(client)
            raise
        self._call(lambda t: client.send_offsets_to_transaction(ends, metadata, t), deadline)
        self._call(client.commit_transaction, deadline)

    def abort(self) -> None:
        """Abort the transaction; a failure asks for a new producer (OutcomeUnknown)."""
        try:
            self._call(self._client.abort_transaction, Deadline(self._loop.commit_timeout_s))
        except AbortRequired as exc:
            raise OutcomeUnknown(f"abort failed: {exc}") from exc

    def _on_error(self, error: KafkaError) -> None:
        """Note what the client meets in the background; called while it is served."""
        if error.name() in ("_TRANSPORT", "_ALL_BROKERS_DOWN"):
            self._lost = error

    def _check_connections(self) -> None:
        """Refuse what may add offsets if a connection was lost.

        This producer may remember a coordinator of the group that is gone, and would wait for that
        one until its time is up (librdkafka issue 5511).
        """
        self._serve(self._client.poll, 0)
        if self._lost is not None:
            raise OutcomeUnknown(f"a connection was lost: {self._lost.str()}", ErrorCategory.RETRY)

    def _leave_transaction(self, client: ProducerClient) -> None:
        """Have the client leave its transaction, however the broker takes it.

        One that is dropped in the millisecond in which it is about to register its first partition
        ends the process: librdkafka asserts that it has counted that request, which it has not yet.
        """
        with suppress(*CLIENT_EXCEPTIONS, OutcomeUnknown):
            within(client.abort_transaction, LEAVE_TRANSACTION_S)

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
                        self._serve(self._client.poll, min(_POLL_S, deadline.remaining_s))
                    case TransactionClass.ABORTABLE:
                        raise AbortRequired(text, category_of(error)) from exc
                    case TransactionClass.FENCED:
                        raise FencedError(text) from exc
                    case _:
                        raise OutcomeUnknown(text, category_of(error)) from exc


class FlushingProducer(Producer):
    """Delivery ``at_least_once``: outputs are flushed, then offsets committed, no transaction.

    The first failed delivery is kept and raised by the next `commit`.
    """

    is_transactional = False
    _failed: KafkaError | None = None

    def open(self) -> None:
        """Make a client."""
        self._failed = None
        self._open_client = self._connect(on_delivery=self._on_delivery)

    def begin(self) -> None:
        """Do nothing: there is no transaction."""

    def commit(self, ends: list[TopicPartition]) -> None:
        """Flush, then commit.

        Raises
        ------
        AbortRequired
            If the group has moved on: read again.
        OutcomeUnknown
            If not all was delivered: read again with a new producer.
        DeliveryFailed
            If a record can never be delivered.
        """
        left = self._serve(self._client.flush, self._loop.commit_timeout_s)
        if self._failed is not None:
            if category_of(self._failed) is ErrorCategory.UNDELIVERABLE:
                raise DeliveryFailed(f"delivery: {self._failed.name()}: {self._failed.str()}")
            raise OutcomeUnknown(f"delivery: {self._failed.name()}")
        if left:
            raise OutcomeUnknown(f"{left} records are not delivered in time")
        try:
            self._consumer.commit_offsets(ends)
        except BrokerUnavailable as exc:
            raise AbortRequired(str(exc)) from exc

    def abort(self) -> None:
        """Forget what is queued: it will be produced again."""
        self._client.purge()
        self._serve(self._client.flush, 1.0)
        self._failed = None

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        """Keep the first failed delivery."""
        if error is not None and self._failed is None:
            self._failed = error


DELIVERIES: Final[Mapping[str, type[Producer]]] = {
    "exactly_once": TransactionalProducer,
    "at_least_once": FlushingProducer,
}
"""The producer of each value of `LoopSettings.delivery`."""
