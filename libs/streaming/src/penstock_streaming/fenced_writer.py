"""Writing what follows from a log, so that nobody else decides at the same time.

A decision is written in five steps: take the transactional id with a new producer, which aborts
what another one has open and fences it; read the topics to their ends; decide; write the records
of the decision in one transaction, to however many topics; and where the outcome of that
transaction is unknown, begin again with a new producer.

The producer of a consumer loop, which commits offsets too, is `TransactionalProducer`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, Message, Producer
from penstock_schemas.errors import BrokerUnavailable, DeliveryFailed, FencedError

from penstock_streaming.dead_letters import Header
from penstock_streaming.errors import (
    CLIENT_EXCEPTIONS,
    AbortRequired,
    ErrorCategory,
    OutcomeUnknown,
    TransactionClass,
    category_of,
    client_errors,
    error_of,
    penstock_error,
    transaction_class,
)
from penstock_streaming.log_view import Partition
from penstock_streaming.settings import KafkaSettings, LoopSettings
from penstock_streaming.timing import Deadline, within

LOG = logging.getLogger(__name__)
OPEN_S: Final = 60.0
"""Time to take the transactional id: what an earlier producer left open is ended first."""
_ATTEMPT_S: Final = 5.0
_POLL_S: Final = 0.05
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 4.0


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record to be written.

    Parameters
    ----------
    timestamp_ms
        Milliseconds since the epoch; 0 lets the client stamp it.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = 0
    timestamp_ms: int = 0
    headers: Sequence[Header] = ()


class FencedWriter:
    """Writes transactions under one transactional id. To be used by one thread at a time.

    Parameters
    ----------
    transactional_id
        Whoever opens it next aborts what this writer has open, and this one can write no more.
    loop
        Time-outs of the transaction.
    """

    def __init__(
        self, kafka: KafkaSettings, transactional_id: str, loop: LoopSettings | None = None
    ) -> None:
        self._loop = loop or LoopSettings()
        self._config: dict[str, Any] = kafka.producer_config(self._loop, transactional_id)
        self._id = transactional_id
        self._client: Producer | None = None
        self._begun_at: float | None = None
        self._refused: KafkaError | None = None
        self._written: dict[Partition, int] = {}

    @property
    def is_open(self) -> bool:
        """Whether the transactional id has been taken and nothing has failed since."""
        return self._client is not None

    @property
    def age_s(self) -> float:
        """Seconds since the open transaction began; 0.0 without one."""
        return 0.0 if self._begun_at is None else time.monotonic() - self._begun_at

    def open(self, timeout_s: float = OPEN_S) -> None:
        """Take the transactional id with a new producer.

        When it returns, whatever an earlier producer left open is aborted or committed for good.

        Raises
        ------
        BrokerUnavailable
            If that takes too long.
        FencedError
            If another producer takes the id right now.
        ConfigError
            If the broker refuses for good.
        """
        self.close()
        client = Producer(self._config)
        deadline = Deadline(timeout_s)
        while True:
            try:
                within(client.init_transactions, min(_ATTEMPT_S, max(0.1, deadline.remaining_s)))
            except OutcomeUnknown as exc:
                raise BrokerUnavailable(f"taking {self._id}: {exc}") from exc
            except CLIENT_EXCEPTIONS as exc:
                error = error_of(exc)
                if transaction_class(error) is TransactionClass.RETRIABLE and not deadline.expired:
                    continue
                if category_of(error) in (ErrorCategory.CONFIG, ErrorCategory.FENCED):
                    raise penstock_error(error, f"taking {self._id}") from exc
                raise BrokerUnavailable(f"taking {self._id}: {error.str()}") from exc
            else:
                self._client = client
                return

    def produce(self, record: LogRecord) -> None:
        """Queue a record in the open transaction; the first one begins it.

        Raises
        ------
        AbortRequired, OutcomeUnknown, FencedError, DeliveryFailed
            As `commit`.
        """
        client: Any = self._opened  # its stub asks for concrete header lists
        if self._begun_at is None:
            self._refused = None
            self._written = {}
            self._call(lambda _: client.begin_transaction())
            self._begun_at = time.monotonic()
        deadline = Deadline(self._loop.commit_timeout_s)
        while True:
            try:
                client.produce(
                    record.topic,
                    record.value,
                    record.key,
                    record.partition,
                    timestamp=record.timestamp_ms,
                    headers=list(record.headers),
                    on_delivery=self._delivered,
                )
                client.poll(0)
                return
            except BufferError:
                if deadline.expired:
                    raise AbortRequired("the producer's queue stays full") from None
                self._serve(client)
            except CLIENT_EXCEPTIONS as exc:
                raise self._failure(self._cause(exc)) from exc

    def commit(self) -> dict[Partition, int]:
        """Make the records since the last commit visible at once.

        Returns
        -------
        The offset of the last record in each partition.

        Raises
        ------
        AbortRequired, OutcomeUnknown
            If that failed, or nobody knows: open again, and read what is committed.
        FencedError
            If another producer has taken the transactional id.
        DeliveryFailed
            If the broker will never take one of the records.
        ConfigError
            If the broker refuses for good.
        """
        client = self._opened
        self._call(client.commit_transaction)
        self._begun_at = None
        return self._written

    def write_transaction(self, records: Iterable[LogRecord]) -> dict[Partition, int]:
        """Write records in one transaction; after an error the writer is closed.

        Returns and raises as `commit`.
        """
        try:
            for record in records:
                self.produce(record)
            return self.commit()
        except BaseException:
            self.close()
            raise

    def write_decision(
        self, decide: Callable[[Deadline], Sequence[LogRecord]], timeout_s: float
    ) -> dict[Partition, int]:
        """Take the transactional id, decide, and write the decision in one transaction.

        A rival that has taken the id meanwhile, or an unknown outcome, lets it begin again with a
        new producer, so ``decide`` may be called several times. The writer is closed afterwards.

        Parameters
        ----------
        decide
            Called when the id is taken: reads the topics to their ends within the time that is
            left, and returns what is to be written. Nothing is written where it returns nothing;
            after an unknown outcome it finds its records there or decides anew.

        Returns
        -------
        As `commit`; empty where nothing was written.

        Raises
        ------
        BrokerUnavailable
            If it is not written in time.
        DeliveryFailed, ConfigError
            If the broker refuses for good.
        """
        deadline = Deadline(timeout_s)
        longest_pause_s = _FIRST_PAUSE_S
        try:
            while not deadline.expired:
                try:
                    self.open(deadline.remaining_s)
                except (BrokerUnavailable, FencedError) as exc:
                    failure: Exception = exc
                else:
                    records = decide(deadline)
                    if not records:
                        return {}
                    try:
                        return self.write_transaction(records)
                    except (AbortRequired, OutcomeUnknown, FencedError) as exc:
                        failure = exc
                LOG.warning("writing as %s: %s; once more", self._id, failure)
                # Rivals that start again at once would fence each other for ever.
                pause_s = random.uniform(0.0, longest_pause_s)  # noqa: S311 - no secret
                time.sleep(min(pause_s, deadline.remaining_s))
                longest_pause_s = min(2 * longest_pause_s, _LONGEST_PAUSE_S)
        finally:
            self.close()
        raise BrokerUnavailable(f"{self._id}: not written in {timeout_s:.0f} s")

    def close(self) -> None:
        """Drop the producer; what is open is aborted, at the latest at the broker's time-out."""
        client, self._client = self._client, None
        was_open, self._begun_at = self._begun_at is not None, None
        if client is None:
            return
        try:
            if was_open:
                within(client.abort_transaction, self._loop.commit_timeout_s)
        except (OutcomeUnknown, *CLIENT_EXCEPTIONS):
            client.purge()

    @property
    def _opened(self) -> Producer:
        if self._client is None:
            raise OutcomeUnknown("the producer is not open")
        return self._client

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._written[message.topic() or "", message.partition() or 0] = message.offset() or 0
        elif category_of(error) is ErrorCategory.UNDELIVERABLE:
            self._refused = self._refused or error

    def _call(self, call: Callable[[float], object]) -> None:
        """Make a transaction call, repeated while librdkafka says so and time is left."""
        deadline = Deadline(self._loop.commit_timeout_s)
        while True:
            try:
                return within(call, max(0.1, deadline.remaining_s))
            except CLIENT_EXCEPTIONS as exc:
                is_retriable = transaction_class(error_of(exc)) is TransactionClass.RETRIABLE
                if not is_retriable or deadline.expired:
                    raise self._failure(exc) from exc

    def _serve(self, client: Producer) -> None:
        """Serve callbacks while the queue is full."""
        try:
            client.poll(_POLL_S)
        except CLIENT_EXCEPTIONS as exc:
            raise self._failure(self._cause(exc)) from exc

    def _cause(self, exc: BaseException) -> BaseException:
        """Return what made the producer useless: `produce` says only that it is, a call why."""
        if error_of(exc).code() == KafkaError._FATAL:  # noqa: SLF001 - the client's name for it
            try:
                within(self._opened.abort_transaction, self._loop.commit_timeout_s)
            except CLIENT_EXCEPTIONS as cause:
                return cause
            except OutcomeUnknown:
                return exc
        return exc

    def _failure(self, exc: BaseException) -> Exception:
        """Return what an error of a transaction means."""
        error = error_of(exc)
        text = f"{error.name()}: {error.str()}"
        if self._refused is not None:
            return DeliveryFailed(f"the broker refuses a record: {self._refused.str()}")
        if category_of(error) in (ErrorCategory.CONFIG, ErrorCategory.UNDELIVERABLE):
            return penstock_error(error, f"writing as {self._id}")
        if category_of(error) is ErrorCategory.FENCED:
            # Also where the client would let us abort: taking the id back would fence the other.
            return FencedError(f"another run has taken over ({self._id}); it goes on there")
        if transaction_class(error) is TransactionClass.ABORTABLE:
            return AbortRequired(text, category_of(error))
        return OutcomeUnknown(text)


def write_unfenced(kafka: KafkaSettings, record: LogRecord, timeout_s: float) -> None:
    """Write one record outside of a transaction; it lies in the log when this returns.

    Raises
    ------
    BrokerUnavailable
        If it is not acknowledged in time.
    """
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: object) -> None:
        if error is not None:
            failed.append(error)

    producer: Any = Producer(kafka.producer_config(LoopSettings()))
    with client_errors(f"writing {record.topic}"):
        producer.produce(
            record.topic,
            record.value,
            record.key,
            record.partition,
            timestamp=record.timestamp_ms,
            headers=list(record.headers),
            on_delivery=delivered,
        )
        left = producer.flush(timeout_s)
    if failed:
        raise penstock_error(failed[0], f"writing {record.topic}")
    if left:
        raise BrokerUnavailable(f"{record.topic}: not acknowledged in {timeout_s:.0f} s")
